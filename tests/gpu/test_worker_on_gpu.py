"""On a CUDA device: the worker's own numbers are of that device, and its driver is heard.

Never run by `make test`: it needs a GPU (`python -m pytest tests/gpu`).
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from processes import wait_until
from ryzanstein_worker.contract import COMPLETIONS, METRICS
from ryzanstein_worker.telemetry.nvml import Nvml
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    model_dir: Path = write_tiny_model(tmp_path_factory.mktemp("model"))
    with serve_worker(model_dir, "--num-kv-blocks", "64", "--device", "cuda") as worker:
        yield worker


def numbers(worker: WorkerProcess) -> dict[str, float]:
    """Sums over all series of a name, without the prefix."""
    text = httpx.get(f"{worker.health}{METRICS}", timeout=10).text
    found: dict[str, float] = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        if not sample.name.endswith("_bucket"):
            name = sample.name.removeprefix("ryzanstein_")
            found[name] = found.get(name, 0.0) + sample.value
    return found


def test_a_real_driver_tells_of_a_healthy_device(worker: WorkerProcess) -> None:
    wait_until(lambda: numbers(worker).get("accelerator_healthy") == 1, 20, "a device that is known to work")
    nvml = Nvml()
    try:
        assert nvml.gpus
        assert not any(nvml.read(gpu).lost for gpu in nvml.gpus)
    finally:
        nvml.close()


def test_steps_on_the_device_are_measured_and_its_memory_is(worker: WorkerProcess) -> None:
    asked = {"model": MODEL_NAME, "prompt": [1, 2, 3], "max_tokens": 8, "ignore_eos": True}
    assert httpx.post(f"{worker.api}{COMPLETIONS}", json=asked, timeout=60).is_success
    found = numbers(worker)
    assert found["engine_step_time_seconds_count"] == 8
    assert 0 < found["engine_step_time_seconds_sum"] < 60
    assert found["kv_blocks_free"] == found["kv_blocks"] == 64
    text = httpx.get(f"{worker.health}{METRICS}", timeout=10).text
    assert 'device="cuda"' in text
    assert 'stage="weights"' in text
