"""The log's level changes while a worker runs, at any moment of its life, in every process of it, and kills none."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from otlp import collector
from processes import wait_until
from ryzanstein_worker.contract import COMPLETIONS
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, ONE_THREAD, WorkerProcess

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

TRACE = "0af7651916cd43dd8448eb211c80319c"
CHANGED = "the log's level is changed"
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
RANKS = 2
GIVE_UP_SECONDS = 60.0

FIRST_IMPORTS = """
import os, runpy, signal, sys

sought = []

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if {signal.SIGUSR1, signal.SIGUSR2} <= signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            print(*sought, flush=True)
            os._exit(0)
        sought.append(name)

sys.meta_path.insert(0, Finder)
sys.argv = ["ryzanstein_worker", "serve"]
runpy.run_module("ryzanstein_worker", run_name="__main__", alter_sys=True)
"""
"""Prints what a worker has looked for to import by the time at which the signals are held back."""


def survives(pid: int) -> bool:
    """Whether both signals are held back or caught, rather than deadly."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    held = int(fields["SigBlk"], 16) | int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
    return all(held >> (number - 1) & 1 for number in SIGNALS)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """A worker at the moment at which Python has come to its first line."""
    model_dir = write_tiny_model(tmp_path / "model")
    with collector() as kept:
        for name, value in kept.environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "ryzanstein_worker", "serve", "--model", str(model_dir), "--device", "cpu"]
        command += ["--served-model-name", MODEL_NAME, "--port", "0", "--health-port", "0", "--grpc-port", "0"]
        command += ["--tensor-parallel-size", str(RANKS), "--num-kv-blocks", "64", "--drain-seconds", "30"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
        try:
            wait_until(lambda: survives(process.pid), GIVE_UP_SECONDS, "the first line")
            yield process
        finally:
            process.kill()
            process.wait(10)
            assert process.stderr is not None
            process.stderr.close()


@contextmanager
def bombardment(pid: int) -> Iterator[None]:
    """Both signals again and again, to a worker and, as it passes them on, to its ranks, while the block lasts."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            for number in SIGNALS:
                os.kill(pid, number)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def changes(worker: WorkerProcess, to: str) -> list[dict[str, Any]]:
    return [record for record in worker.records if record["message"] == CHANGED and record["to"] == to]


def debug_lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    return [record for record in worker.records if record.get("level") == "debug"]


def test_the_signals_are_held_back_before_anything_is_imported() -> None:
    said = subprocess.run(
        [sys.executable, "-c", FIRST_IMPORTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert set(said.stdout.split()) == {"ryzanstein_worker", "ryzanstein_worker.__main__"}, said.stderr


def test_signals_at_the_start_while_loading_and_while_draining_end_nothing(started: "subprocess.Popen[str]") -> None:
    with bombardment(started.pid):
        worker = WorkerProcess(started)
        assert len(worker.ranks()) == RANKS
        assert all(survives(rank) for rank in worker.ranks())
        request = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{worker.api}{COMPLETIONS}", json=request, timeout=GIVE_UP_SECONDS) as answer:
            lines = answer.iter_lines()
            next(lines)
            started.send_signal(signal.SIGTERM)
            worker.wait_for_log("draining")
            assert [line for line in lines if line][-1] == "data: [DONE]"
    assert worker.wait(GIVE_UP_SECONDS) == 0


def test_debug_is_told_once_by_each_process_and_a_requests_lines_have_its_ids(started: "subprocess.Popen[str]") -> None:
    worker = WorkerProcess(started)
    for _ in range(2):
        started.send_signal(signal.SIGUSR1)
        wait_until(lambda: len(changes(worker, "debug")) == 1 + RANKS, GIVE_UP_SECONDS, "a line of each process")
    headers = {"x-request-id": "r-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    request = {"model": MODEL_NAME, "prompt": "a secret", "max_tokens": 3, "ignore_eos": True}
    assert httpx.post(f"{worker.api}{COMPLETIONS}", json=request, headers=headers, timeout=GIVE_UP_SECONDS).is_success
    ended = worker.wait_for_log("a request has ended", GIVE_UP_SECONDS)
    assert (ended["request_id"], ended["trace_id"], ended["tokens"], ended["reason"]) == ("r-1", TRACE, 3, "length")
    step = next(record for record in worker.records if record["message"] == "a step was computed")
    assert (step["rank"], step["phase"], step["requests"]) == (0, "prefill", 1)
    started.send_signal(signal.SIGUSR2)
    wait_until(lambda: len(changes(worker, "info")) == 1 + RANKS, GIVE_UP_SECONDS, "a line of each process")
    assert [len(changes(worker, "debug")), {record.get("rank") for record in changes(worker, "info")}] == [
        1 + RANKS,
        {None, 0, 1},
    ]
    count = len(debug_lines(worker))
    assert httpx.post(f"{worker.api}{COMPLETIONS}", json=request, headers=headers, timeout=GIVE_UP_SECONDS).is_success
    started.send_signal(signal.SIGUSR1)  # what a process says of it comes behind all that it said before
    wait_until(lambda: len(changes(worker, "debug")) == 2 * (1 + RANKS), GIVE_UP_SECONDS, "a line of each process")
    assert len(debug_lines(worker)) == count, "nothing is told at debug any more"
    assert "secret" not in repr(worker.records)
    assert {record["logger"].split(".")[0] for record in worker.records} == {"ryzanstein_worker"}
