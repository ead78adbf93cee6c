"""A group of several pods: the first shows the engine, each shows its own ranks."""

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ryzanstein_worker.contract import COMPLETIONS, METRICS
from tiny_model import write_tiny_model
from worker_group import Pod, worker_group
from worker_process import MODEL_NAME

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]


def samples(pod: Pod) -> dict[str, list[Sample]]:
    """By name, without the prefix."""
    at = pod.wait_for_log("answering probes")
    text = httpx.get(f"http://{at['host']}:{at['port']}{METRICS}", timeout=60).text
    found: dict[str, list[Sample]] = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        found.setdefault(sample.name.removeprefix("ryzanstein_"), []).append(sample)
    return found


def ranks(found: list[Sample]) -> set[str]:
    return {sample.labels["rank"] for sample in found}


def test_the_first_pod_shows_the_engine_and_each_pod_its_own_ranks(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    with worker_group(model_dir, tmp_path, "--num-kv-blocks", "64", nodes=2, ranks=2) as group:
        group.serving()
        asked = {"model": MODEL_NAME, "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
        assert httpx.post(f"{group.api}{COMPLETIONS}", json=asked, timeout=60).is_success
        first, second = samples(group.pods[0]), samples(group.pods[1])
    assert sum(sample.value for sample in first["engine_step_time_seconds_count"]) == 4
    assert first["request_prompt_tokens_sum"][0].value == 3
    assert not {name for name in second if name.startswith(("engine_step", "request", "kv_", "num_", "prompt"))}
    for node_rank, found in enumerate((first, second)):
        assert ranks(found["collective_time_seconds_count"]) == {str(node_rank)}
        assert [sample.labels["node_rank"] for sample in found["worker_info"]] == [str(node_rank)]
        assert all(sample.value > 0 for sample in found["model_load_seconds"])
    assert ranks(first["engine_heartbeat_age_seconds"]) == {"0", "1"}
    assert ranks(second["engine_heartbeat_age_seconds"]) == {"1"}
