"""A whole worker as a process: `python -m ryzanstein_worker serve` on free ports, its log read as it comes."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 100.0
MODEL_NAME = "tiny"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
"""One thread a rank, whatever the ranks set for themselves (the limit is above that): threads that wait for each other
at every operation take many times as long where others want the cores."""


class WorkerProcess:
    """A running worker. `api` and `health` are base URLs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.records: list[dict[str, Any]] = []
        self._incoming: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.health = f"http://127.0.0.1:{self.wait_for_log('answering probes')['port']}"
        serving = self.wait_for_log("serving")
        self.api = f"http://127.0.0.1:{serving['port']}"
        self.grpc = f"127.0.0.1:{serving['grpc_port']}"

    def wait_for_log(self, message: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The next record with this message. Fails with the whole log if it does not come in time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                record = self._incoming.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {message!r} in the log: {self.records}") from None
            if record is None:
                raise AssertionError(f"the worker ended without {message!r}: {self.records}")
            if record["message"] == message:
                return record

    def ranks(self) -> list[int]:
        """Process ids of the rank processes."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"engine.rank" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def wait(self, seconds: float) -> int:
        return self.process.wait(timeout=seconds)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                record = json.loads(line)
            except ValueError:
                record = {"message": line}
            self.records.append(record)
            self._incoming.put(record)
        self._incoming.put(None)


@contextmanager
def serve_worker(
    model_dir: Path, *flags: str, program: Sequence[str] = ("-m", "ryzanstein_worker")
) -> Iterator[WorkerProcess]:
    """Run a worker for the length of the block; it is killed at the end if it still runs. program: Python's arguments
    that make it one."""
    command = [sys.executable, *program, "serve", "--model", str(model_dir)]
    command += ["--served-model-name", MODEL_NAME, "--port", "0", "--health-port", "0", "--grpc-port", "0"]
    command += ["--dtype", "float32", "--device", "cpu", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
    try:
        yield WorkerProcess(process)
    finally:
        # Two signals: without a drain. Apart, for two that come at once are one.
        for seconds in (0.2, 10):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds)
        if process.poll() is None:
            process.kill()
            process.wait(timeout=10)
        assert process.stderr is not None
        process.stderr.close()
