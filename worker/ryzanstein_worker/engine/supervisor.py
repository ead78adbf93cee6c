"""Watches the processes and heartbeats of this pod's ranks from the parent; ends them all when one is dead or frozen.

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
from ryzanstein_worker.engine.status import EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_PEER_LOST
from ryzanstein_worker.engine.verdict import Blame, Evidence

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
    """`on_lost` is called once, from this thread, after every rank of the pod has ended: with what is known here, which
    in a group of several pods is not all."""

    def __init__(
        self,
        processes: list[subprocess.Popen[bytes]],
        slots: HeartbeatMap,
        config: EngineConfig,
        on_lost: Callable[[Evidence], None],
        *,
        node_rank: int = 0,
    ) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._processes = processes
        self._slots = slots
        self._config = config
        self._node_rank = node_rank
        self._first = config.ranks_of(node_rank).start
        self._on_lost = on_lost
        self._stopping = threading.Event()
        self._beats = [0] * len(processes)
        self._stale = [0.0] * len(processes)

    def run(self) -> None:
        seen = time.monotonic()
        lost: Evidence | None = None
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
        for place, beats in enumerate(self._beats):
            self._beats[place] = self._read(place)[1]
            self._stale[place] = 0.0 if self._beats[place] != beats else self._stale[place] + min(elapsed, 2 * _TICK)

    def _dead(self) -> Evidence | None:
        if all(process.poll() is None for process in self._processes):
            return None
        first = [place for place, process in enumerate(self._processes) if process.returncode is not None]
        time.sleep(_GRACE)
        codes = {place: code for place, process in enumerate(self._processes) if (code := process.poll()) is not None}
        # A rank that says it lost its peers is a witness, and one that went later may be its victim.
        place = min(codes, key=lambda place: (codes[place] == EXIT_PEER_LOST, place not in first, codes[place] >= 0))
        blame = Blame.WITNESS if codes[place] == EXIT_PEER_LOST else Blame.DIED
        return Evidence(blame, self._first + place, f"{self._rank_name(place)} {describe_exit(codes[place])}")

    def _frozen(self) -> Evidence | None:
        places = range(len(self._processes))
        if not any(self._is_overdue(place) for place in places):
            return None
        # The ranks that wait for the frozen one in a collective are silent too: name the one that caused it.
        silent = [place for place in places if self._stale[place] > 2 * _TICK]
        stopped = [place for place in silent if self._proc_state(place) in _STOPPED_STATES]
        place = stopped[0] if stopped else max(silent, key=lambda place: self._read(place)[0])
        age, _, state = self._read(place)
        cause = "its process is stopped" if stopped else "it is the longest silent"
        reason = f"{self._rank_name(place)} gave no sign of life for {age:.1f} s in state {state.name.lower()}; {cause}"
        return Evidence(Blame.STOPPED if stopped else Blame.SILENT, self._first + place, reason, age)

    def _is_overdue(self, place: int) -> bool:
        loading = self._read(place)[2] == RankState.LOADING
        if loading and self._proc_state(place) not in _STOPPED_STATES:
            return self._stale[place] > self._config.startup_timeout_seconds
        return self._stale[place] > self._config.hang_timeout_seconds

    def _read(self, place: int) -> tuple[float, int, RankState]:
        return self._slots.read(self._first + place)

    def _rank_name(self, place: int) -> str:
        return rank_name(self._config, self._first + place)

    def _proc_state(self, place: int) -> str:
        return process_state(self._processes[place].pid)

    def _end(self, lost: Evidence) -> None:
        kill_all(self._processes)
        place = None if lost.rank is None else lost.rank - self._first
        # In a group of several pods the verdict is the whole group's, and told where it falls.
        logger.log(
            logging.ERROR if self._config.nnodes == 1 else logging.INFO,
            "the group of ranks is lost: %s",
            lost.reason,
            extra={
                "culprit_rank": lost.rank,
                "culprit_pid": None if place is None else self._processes[place].pid,
                "ranks": len(self._processes),
            },
        )
        self._on_lost(lost)


def rank_name(config: EngineConfig, rank: int) -> str:
    """As sentences have it."""
    return f"rank {rank}" if config.nnodes == 1 else f"rank {rank} of node rank {config.node_of(rank)}"


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
