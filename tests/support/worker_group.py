"""A group of several "pods": one `python -m ryzanstein_worker serve --node-rank K` each, on addresses of loopback."""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from ports import free_port
from ryzanstein_worker.contract import ENV_GROUP_KEY_FILE, ENV_REVISION, ENV_TERMINATION_LOG
from worker_process import MODEL_NAME, ONE_THREAD

START_SECONDS = 120.0


class Pod:
    """One process, and its log as it comes."""

    def __init__(self, command: list[str], environment: dict[str, str], termination_log: Path) -> None:
        self.termination_log = termination_log
        self.records: list[dict[str, Any]] = []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self._incoming: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_log(self, part: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The first record, from the start on, whose message holds `part`."""
        deadline = time.monotonic() + seconds
        for record in list(self.records):
            if part in record["message"]:
                return record
        while not self._ended:
            try:
                record_or_end = self._incoming.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {part!r} in the log: {self.records}") from None
            if record_or_end is None:
                self._ended = True
            elif part in record_or_end["message"]:
                return record_or_end
        raise AssertionError(f"the pod ended without {part!r}: {self.records}")

    def ranks(self) -> list[int]:
        """Process ids of its rank processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found = []
        for child in children:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if b"engine.rank" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def status(self) -> dict[str, Any]:
        """Its status page."""
        at = self.wait_for_log("answering probes")
        page: dict[str, Any] = httpx.get(f"http://{at['host']}:{at['port']}/health/status", timeout=20).json()
        return page

    def last_words(self) -> str:
        """The last line of its log, once it has ended."""
        self._reader.join(10)
        return str(self.records[-1]["message"])

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                record: dict[str, Any] = msgspec.json.decode(line)
            except msgspec.DecodeError:
                record = {"message": line.rstrip("\n")}
            self.records.append(record)
            self._incoming.put(record)
        self._incoming.put(None)


class WorkerGroup:
    """`pods` are the latest processes, by node rank; `starts` counts them."""

    def __init__(self, model_dir: Path, directory: Path, *, nodes: int, ranks: int, flags: tuple[str, ...]) -> None:
        self.key = secrets.token_hex(32).encode()
        self.port = free_port()
        self.nodes = nodes
        self.pods: dict[int, Pod] = {}
        self.starts = dict.fromkeys(range(nodes), 0)
        self._directory = directory
        self._flags = ["--tensor-parallel-size", str(ranks), "--nnodes", str(nodes), "--model", str(model_dir), *flags]
        (directory / "key").write_bytes(self.key + b"\n")

    @property
    def head(self) -> Pod:
        return self.pods[0]

    @property
    def api(self) -> str:
        at = self.head.wait_for_log("serving")
        return f"http://{at['host']}:{at['port']}"

    def start(self, node_rank: int, *flags: str, revision: str = "r1", key_file: Path | None = None) -> Pod:
        """Another process for this place; flags that come later count."""
        command = [sys.executable, "-m", "ryzanstein_worker", "serve", *self._flags]
        command += ["--node-rank", str(node_rank), "--master-addr", "127.0.0.1", "--master-port", str(self.port)]
        command += ["--host", f"127.0.0.{node_rank + 1}", "--port", "0", "--health-port", "0", "--grpc-port", "0"]
        command += ["--served-model-name", MODEL_NAME, "--dtype", "float32", "--device", "cpu", *flags]
        log = self._directory / f"termination-{secrets.token_hex(4)}"
        environment = {
            **os.environ,
            **ONE_THREAD,
            ENV_REVISION: revision,
            ENV_GROUP_KEY_FILE: str(key_file or self._directory / "key"),
            ENV_TERMINATION_LOG: str(log),
        }
        return Pod(command, environment, log)

    def heal(self) -> None:
        """What a kubelet does: start each pod anew that has ended."""
        for node_rank in range(self.nodes):
            pod = self.pods.get(node_rank)
            if pod is None or pod.process.poll() is not None:
                if pod is not None:
                    pod.end()
                self.starts[node_rank] += 1
                self.pods[node_rank] = self.start(node_rank)

    def serving(self) -> None:
        """Heal, until the API is served."""
        self.heal()
        for pod in self.pods.values():
            pod.wait_for_log("serving")

    def exits(self, seconds: float) -> list[int]:
        """Every pod's exit code, in order, within `seconds` for all."""
        deadline = time.monotonic() + seconds
        return [self.pods[node].process.wait(max(0.01, deadline - time.monotonic())) for node in range(self.nodes)]

    def close(self) -> None:
        for pod in self.pods.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pod.pid, signal.SIGCONT)
            pod.end()


@contextmanager
def worker_group(
    model_dir: Path, directory: Path, *flags: str, nodes: int = 2, ranks: int = 2
) -> Iterator[WorkerGroup]:
    """A group whose pods start with `heal` or `serving`, and are killed at the end."""
    group = WorkerGroup(model_dir, directory, nodes=nodes, ranks=ranks, flags=flags)
    try:
        yield group
    finally:
        group.close()
