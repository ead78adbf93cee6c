"""Watches the ranks' processes and heartbeats from the parent; ends the whole group when one is dead or frozen.

A thread, so that a busy event loop cannot delay it. Judges by progress, never by how long a request takes: a long
prefill beats at every layer.
"""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.contract import EXIT_CONFIG
from ryzanstein_worker.engine.heartbeat import HeartbeatMap, RankState
from ryzanstein_worker.engine.status import EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_PEER_LOST, GroupLost

logger = logging.getLogger(__name__)

_TICK = 0.1
_GRACE = 0.2  # after a death, for others that died of the same cause to be seen beside it
_KILL_SECONDS = 3.0

_EXIT_REASONS = {
    EXIT_CONFIG: "refused its configuration",
    EXIT_PEER_LOST: "lost its peers",
    EXIT_DIVERGED: "found its state to differ from rank 0's",
    EXIT_OUT_OF_MEMORY: "ran out of device memory in a step that other ranks were in",
}
_STOPPED_STATES = "Tt"  # of /proc/PID/stat: stopped by a signal or a debugger


class Supervisor(threading.Thread):
    """`on_lost` is called once, from this thread, after every rank has ended."""

    def __init__(
        self,
        processes: list[subprocess.Popen[bytes]],
        slots: HeartbeatMap,
        config: EngineConfig,
        on_lost: Callable[[GroupLost], None],
    ) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._processes = processes
        self._slots = slots
        self._config = config
        self._on_lost = on_lost
        self._stopping = threading.Event()
        self._beats = [0] * len(processes)
        self._stale = [0.0] * len(processes)

    def run(self) -> None:
        seen = time.monotonic()
        lost: GroupLost | None = None
        while lost is None:
            if self._stopping.wait(_TICK):
                return
            now = time.monotonic()
            self._observe(now - seen)
            seen = now
            lost = self._dead() or self._frozen()
        self._end(lost)

    def stop(self) -> None:
        """No longer watch: the ranks are about to end because they were told to."""
        self._stopping.set()
        self.join()

    def _observe(self, elapsed: float) -> None:
        """Count for how long each rank has given no sign. If this process itself was paused, a tick counts as two at
        most: the ranks were paused too and get their time again."""
        for rank, beats in enumerate(self._beats):
            self._beats[rank] = self._slots.read(rank)[1]
            self._stale[rank] = 0.0 if self._beats[rank] != beats else self._stale[rank] + min(elapsed, 2 * _TICK)

    def _dead(self) -> GroupLost | None:
        if all(process.poll() is None for process in self._processes):
            return None
        first = [rank for rank, process in enumerate(self._processes) if process.returncode is not None]
        time.sleep(_GRACE)
        codes = {rank: code for rank, process in enumerate(self._processes) if (code := process.poll()) is not None}
        # A rank that says it lost its peers is a witness, and one that went later may be its victim.
        rank = min(codes, key=lambda rank: (codes[rank] == EXIT_PEER_LOST, rank not in first, codes[rank] >= 0, rank))
        return GroupLost(rank=rank, reason=f"rank {rank} {describe_exit(codes[rank])}")

    def _frozen(self) -> GroupLost | None:
        overdue = [rank for rank in range(len(self._processes)) if self._is_overdue(rank)]
        if not overdue:
            return None
        # The ranks that wait for the frozen one in a collective are silent too: name the one that caused it.
        silent = [rank for rank, stale in enumerate(self._stale) if stale > 2 * _TICK]
        stopped = [rank for rank in silent if self._proc_state(rank) in _STOPPED_STATES]
        rank = stopped[0] if stopped else max(silent, key=lambda rank: self._slots.read(rank)[0])
        age, _, state = self._slots.read(rank)
        cause = "its process is stopped" if stopped else "it is the longest silent"
        doing = state.name.lower()
        return GroupLost(
            rank=rank, reason=f"rank {rank} gave no sign of life for {age:.1f} s in state {doing}; {cause}"
        )

    def _is_overdue(self, rank: int) -> bool:
        loading = self._slots.read(rank)[2] == RankState.LOADING
        if loading and self._proc_state(rank) not in _STOPPED_STATES:
            return self._stale[rank] > self._config.startup_timeout_seconds
        return self._stale[rank] > self._config.hang_timeout_seconds

    def _proc_state(self, rank: int) -> str:
        return process_state(self._processes[rank].pid)

    def _end(self, lost: GroupLost) -> None:
        kill_all(self._processes)
        logger.error(
            "the group of ranks is lost: %s",
            lost.reason,
            extra={
                "culprit_rank": lost.rank,
                "culprit_pid": None if lost.rank is None else self._processes[lost.rank].pid,
                "ranks": len(self._processes),
            },
        )
        self._on_lost(lost)


def describe_exit(code: int) -> str:
    """Words for a process' return code as subprocess gives it (negative: a signal)."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (by the kernel if memory ran out)" if -code == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"{_EXIT_REASONS.get(code, 'ended')} (exit code {code})"


def process_state(pid: int) -> str:
    """The one-letter state of /proc/PID/stat; '?' when there is no such process."""
    try:
        # The name in parentheses may hold spaces and parentheses of its own.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"


def kill_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to every process that still runs, and reap all: a stopped one ends by it too."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # stuck in the kernel (a device, a dead file system): not ours to mend
            logger.error("a rank does not end on SIGKILL", extra={"pid": process.pid})
