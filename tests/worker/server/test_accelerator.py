"""A whole worker whose accelerator breaks: what it says of it, to whom, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import fake_nvml
from fake_nvml import Driver
from processes import wait_until
from ryzanstein_worker.config import DeviceName
from ryzanstein_worker.contract import ENV_TERMINATION_LOG, EXIT_CONFIG, EXIT_GROUP_LOST
from ryzanstein_worker.server.accelerator import Guard
from ryzanstein_worker.telemetry.metrics import ServerMetrics
from worker_process import WorkerProcess, serve_worker

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]

FAULT = "GPU 1 (GPU-1): it has fallen off the bus (XID 79)."
WITH_DRIVER = f"""
import sys
sys.path.insert(0, {str(Path(fake_nvml.__file__).parent)!r})
import fake_nvml
fake_nvml.install()
from ryzanstein_worker.server import app
from ryzanstein_worker.server.accelerator import Guard
"""
MAIN = """
from ryzanstein_worker.__main__ import main
sys.exit(main())
"""
ON_CPU = ("-c", WITH_DRIVER + MAIN)
AS_IF_ON_CUDA = ("-c", WITH_DRIVER + 'app.Guard = lambda device, metrics: Guard("cuda", metrics)' + MAIN)
"""The ranks run on the CPU, and the GPUs are watched all the same."""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Of a machine with two GPUs, as far as their driver goes."""
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "driver"))
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(tmp_path / "termination-log"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver(tmp_path / "driver")
    driver.set(count=2)
    return driver


def get(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Status and body of a page of the health port."""
    try:
        with urllib.request.urlopen(f"{worker.health}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def status(worker: WorkerProcess) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(get(worker, "/health/status")[1])
    return page


def healthy(worker: WorkerProcess) -> float | None:
    """The metric, where there is one."""
    lines = get(worker, "/metrics")[1].splitlines()
    return next((float(one.split()[1]) for one in lines if one.startswith("ryzanstein_accelerator_healthy{")), None)


def until_fault(worker: WorkerProcess, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not status(worker)["accelerator_fault"]:
        assert time.monotonic() < deadline, "the page does not tell"
        time.sleep(0.05)


def test_a_worker_whose_gpu_falls_off_the_bus_says_so_and_waits_to_be_taken_away(
    driver: Driver, model_dir: Path, tmp_path: Path
) -> None:
    with serve_worker(model_dir, "--num-kv-blocks", "64", program=AS_IF_ON_CUDA) as worker:
        assert healthy(worker) == 1.0
        assert (status(worker)["ready"], status(worker)["accelerator_fault"]) == (True, "")
        driver.report(0, 31)  # an application's error
        driver.report(1, 79)
        until_fault(worker)
        # The page tells it first, the log a moment later.
        log = tmp_path / "termination-log"
        told = f"The accelerator is at fault. {FAULT}"
        wait_until(lambda: log.is_file() and log.read_text() == told, 20.0, "the termination log tells it")
        page = status(worker)
        assert (page["ready"], page["reason"], page["accelerator_fault"]) == (False, FAULT, FAULT)
        assert [get(worker, f"/health/{probe}")[0] for probe in ("live", "ready")] == [200, 503]
        assert healthy(worker) == 0.0

        for rank in worker.ranks():  # what uses a lost device dies of it
            os.kill(rank, signal.SIGKILL)
        worker.wait_for_log("staying until the fault is known", 40)
        assert (get(worker, "/health/live")[0], status(worker)["accelerator_fault"]) == (200, FAULT)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait(30) == EXIT_GROUP_LOST
        assert log.read_text() == told


@pytest.mark.parametrize(("device", "health"), [("cpu", None), ("auto", None), ("cuda", 0)])
def test_who_runs_on_the_cpu_asks_no_driver(driver: Driver, device: DeviceName, health: int | None) -> None:
    fake_nvml.install()
    driver.set(gpu0_lost=1, gpu1_lost=1)
    metrics = ServerMetrics("m")
    with Guard(device, metrics) as guard:
        deadline = time.monotonic() + (0.3 if health is None else 30)
        while not guard.fault() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert guard.fault() == ("" if health is None else "GPU 0: it cannot be reached any more.")
        assert ("ryzanstein_accelerator_healthy" in metrics.render().decode()) is (health is not None)


@pytest.mark.parametrize(("lost", "code"), [(1, EXIT_GROUP_LOST), (0, EXIT_CONFIG)])
def test_a_device_that_cannot_be_used_at_the_start_is_the_users_to_mend_only_if_it_is_not_broken(
    driver: Driver, model_dir: Path, tmp_path: Path, lost: int, code: int
) -> None:
    driver.set(gpu1_lost=lost)
    command = [sys.executable, *ON_CPU, "serve", "--model", str(model_dir), "--device", "cuda"]
    command += ["--port", "0", "--health-port", "0", "--grpc-port", "0"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        deadline = time.monotonic() + 80
        while process.poll() is None and "staying until the fault is known" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == code
    finally:
        process.kill()
        process.wait(10)
    said = (tmp_path / "termination-log").read_text()
    assert ("The accelerator is at fault. GPU 1: it cannot be reached" in said) is bool(lost)
    assert ("no usable CUDA device" in said) is not bool(lost)
