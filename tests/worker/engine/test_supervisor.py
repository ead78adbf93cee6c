"""Whom the supervisor blames, over cheap processes that end or freeze in every way."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from processes import is_running, wait_until
from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine import supervisor as supervisor_module
from ryzanstein_worker.engine.heartbeat import HeartbeatMap, RankState
from ryzanstein_worker.engine.status import EXIT_DIVERGED, EXIT_PEER_LOST
from ryzanstein_worker.engine.supervisor import Supervisor, process_state
from ryzanstein_worker.engine.verdict import Evidence

CONFIG = EngineConfig(model_dir="", hang_timeout_seconds=0.6, startup_timeout_seconds=1.5)
GIVE_UP_SECONDS = 30.0
"""For a verdict that takes a second: how long another machine may stand still."""


class Beaten(Supervisor):
    """Its ranks beat just before it looks, each as many times as it is told (None: always): so how long a rank has
    been silent is counted in looks, whatever else the machine does."""

    state = RankState.STEP
    looks = 0
    beats_of: Sequence[int | None] = ()

    def _observe(self, elapsed: float) -> None:
        self.looks += 1
        for rank, last in enumerate(self.beats_of):
            if last is None or self.looks <= last:
                self._slots.beat(rank, self.state)
        super()._observe(elapsed)


class Watched:
    """Shell processes as ranks, a heartbeat map, and a supervisor over both."""

    def __init__(self, scripts: list[str], state: RankState, beats_of: Sequence[int | None]) -> None:
        self.processes = [
            subprocess.Popen(["sh", "-c", script], start_new_session=True, stdin=subprocess.PIPE) for script in scripts
        ]
        fd = HeartbeatMap.create(len(scripts))
        self.slots = HeartbeatMap(fd, len(scripts))
        os.close(fd)
        self.lost: list[Evidence] = []
        self.supervisor = Beaten(self.processes, self.slots, CONFIG, self.lost.append)
        self.supervisor.state = state
        self.supervisor.beats_of = beats_of or [None] * len(scripts)

    def stop(self, rank: int) -> None:
        """Freeze its process."""
        pid = self.processes[rank].pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: process_state(pid) == "T", GIVE_UP_SECONDS, "the process is stopped")

    def let_end(self, rank: int) -> None:
        """One that reads a line before it ends gets its end of file."""
        stdin = self.processes[rank].stdin
        assert stdin is not None
        stdin.close()
        wait_until(lambda: not is_running(self.processes[rank].pid), GIVE_UP_SECONDS, "the process ended")

    def start(self) -> "Watched":
        self.supervisor.start()
        return self

    def verdict(self) -> Evidence:
        wait_until(lambda: bool(self.lost), GIVE_UP_SECONDS, "the group was lost")
        assert not any(is_running(process.pid) for process in self.processes)
        return self.lost[0]

    def close(self) -> None:
        if self.supervisor.ident is not None:
            self.supervisor.stop()
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(*scripts: str, state: RankState = RankState.STEP, beats_of: Sequence[int | None] = ()) -> Watched:
        made.append(Watched(list(scripts), state, beats_of))
        return made[-1]

    yield make
    for item in made:
        item.close()


FOREVER = "exec sleep 60"


@pytest.mark.parametrize(
    ("scripts", "culprit", "words"),
    [
        (("kill -KILL $$", FOREVER), 0, "was killed by SIGKILL"),
        ((FOREVER, f"exit {EXIT_DIVERGED}"), 1, "found its state to differ from rank 0's (exit code 72)"),
        ((FOREVER, "exit 0"), 1, "ended (exit code 0)"),
        ((f"exit {EXIT_PEER_LOST}", FOREVER), 0, "lost its peers (exit code 71)"),
    ],
)
def test_the_rank_that_died_of_its_own_is_named(
    watch: Callable[..., Watched], scripts: tuple[str, ...], culprit: int, words: str
) -> None:
    lost = watch(*scripts).start().verdict()
    assert lost.rank == culprit
    assert words in lost.reason


@pytest.mark.parametrize(
    ("scripts", "late", "culprit", "words"),
    [
        ((f"read _; exit {EXIT_PEER_LOST}", "kill -SEGV $$"), 0, 1, "was killed by SIGSEGV"),
        ((f"exit {EXIT_PEER_LOST}", "read _; exit 1"), 1, 1, "ended (exit code 1)"),
    ],
)
def test_one_that_ends_in_the_moment_after_the_first_is_judged_beside_it(
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    scripts: tuple[str, ...],
    late: int,
    culprit: int,
    words: str,
) -> None:
    group = watch(*scripts)
    # The moment lasts, here, for as long as this machine takes to end the other.
    moment = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: group.let_end(late))
    monkeypatch.setattr(supervisor_module, "time", moment)
    lost = group.start().verdict()
    assert lost.rank == culprit
    assert words in lost.reason


def test_a_stopped_rank_is_named_though_another_has_been_silent_longer(watch: Callable[..., Watched]) -> None:
    group = watch(FOREVER, FOREVER, beats_of=(1, 2))
    group.stop(1)
    lost = group.start().verdict()
    assert lost.rank == 1
    assert "its process is stopped" in lost.reason


def test_of_silent_ranks_that_run_the_longest_silent_is_named(watch: Callable[..., Watched]) -> None:
    lost = watch(FOREVER, FOREVER, beats_of=(2, 1)).start().verdict()
    assert lost.rank == 1
    assert "it is the longest silent" in lost.reason


def test_a_rank_that_loads_has_the_startup_timeout_and_one_that_is_stopped_then_has_not(
    watch: Callable[..., Watched],
) -> None:
    slow = watch(FOREVER, state=RankState.LOADING, beats_of=(1,))
    stopped = watch(FOREVER, state=RankState.LOADING, beats_of=(1,))
    stopped.stop(0)
    assert "stopped" in stopped.start().verdict().reason
    assert stopped.supervisor._stale[0] < CONFIG.startup_timeout_seconds
    lost = slow.start().verdict()
    assert "in state loading" in lost.reason
    assert slow.supervisor._stale[0] > CONFIG.startup_timeout_seconds, (
        "one that loads was killed after the hang timeout"
    )


def test_ranks_that_beat_are_left_alone(watch: Callable[..., Watched]) -> None:
    group = watch(FOREVER, FOREVER).start()
    # A look comes a tenth of a second after the one before, or later.
    wait_until(lambda: group.supervisor.looks > 15, GIVE_UP_SECONDS, "looks for more than the hang timeout")
    assert not group.lost


def test_a_pause_of_the_whole_machine_is_no_hang() -> None:
    """After SIGCONT the supervisor may run before the ranks do; their beats are then as old as the pause."""
    fd = HeartbeatMap.create(1)
    supervisor = Supervisor([], HeartbeatMap(fd, 1), CONFIG, lambda lost: None)
    os.close(fd)
    supervisor._beats, supervisor._stale = [0], [0.0]
    supervisor._observe(0.1)
    supervisor._observe(3600.0)
    assert supervisor._stale[0] < CONFIG.hang_timeout_seconds
