"""Operators that start in milliseconds: one process imports everything once, and each operator is forked from it.

Each is a process of its own, with its own environment, log and PID, and dies by a real SIGKILL.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

START_SECONDS = 90.0
END_SECONDS = 60.0


class Zygote:
    """Forks operators. Use `zygote()`."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("zygote_main.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._started: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._numbers = 0
        self._reader = threading.Thread(target=self._read, name="zygote", daemon=True)
        self._reader.start()

    def start(self, environment: Mapping[str, str], log: Path, port: int) -> "Forked":
        """A new operator whose probes answer on `port`."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._say({"number": number, "environment": dict(environment), "log": str(log), "port": port})
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._started, START_SECONDS):
                raise RuntimeError("the zygote forked nothing")
            return Forked(self, self._started[number])

    def status_of(self, pid: int) -> int | None:
        """The exit status (a signal's is negative), or None while it runs."""
        with self._changed:
            return self._ended.get(pid)

    def wait(self, pid: int, seconds: float) -> int:
        """Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: pid in self._ended, seconds):
                raise TimeoutError(f"process {pid} still runs after {seconds} s")
            return self._ended[pid]

    def end(self) -> None:
        """Kill what is left."""
        with self._changed:
            left = [pid for pid in self._started.values() if pid not in self._ended]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            self.wait(pid, END_SECONDS)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, word: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(word) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word = json.loads(line)
            with self._changed:
                if "started" in word:
                    self._started[word["number"]] = word["started"]
                else:
                    self._ended[word["ended"]] = word["status"]
                self._changed.notify_all()


class Forked:
    """One operator process."""

    def __init__(self, parent: Zygote, pid: int) -> None:
        self.pid, self._parent = pid, parent
        self.started_at = time.monotonic()

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._parent.status_of(self.pid)

    def send(self, number: int) -> None:
        """Nothing happens where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.status is None:
                os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL, seconds: float = END_SECONDS) -> int:
        """Send a signal and wait. Gives the exit status; raises TimeoutError."""
        self.send(number)
        return self._parent.wait(self.pid, seconds)


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    """A zygote, ended with all its operators."""
    parent = Zygote()
    try:
        yield parent
    finally:
        parent.end()
