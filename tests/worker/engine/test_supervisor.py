"""Whom the supervisor blames, over cheap processes that end or freeze in every way."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from processes import is_running, wait_until
from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.heartbeat import HeartbeatMap, RankState
from ryzanstein_worker.engine.status import EXIT_DIVERGED, EXIT_PEER_LOST, GroupLost
from ryzanstein_worker.engine.supervisor import Supervisor

CONFIG = EngineConfig(model_dir="", hang_timeout_seconds=0.6, startup_timeout_seconds=1.5)


class Watched:
    """Shell processes as ranks, a heartbeat map, a supervisor over both, and a thread that beats for them."""

    def __init__(self, scripts: list[str], states: list[RankState]) -> None:
        self.processes = [subprocess.Popen(["sh", "-c", script], start_new_session=True) for script in scripts]
        fd = HeartbeatMap.create(len(scripts))
        self.slots = HeartbeatMap(fd, len(scripts))
        os.close(fd)
        self.silent: set[int] = set()
        self.lost: list[GroupLost] = []
        self._states = states
        self._done = threading.Event()
        self._beats = threading.Thread(target=self._beat)
        self.supervisor = Supervisor(self.processes, self.slots, CONFIG, self.lost.append)
        self._beats.start()
        self.supervisor.start()

    def _beat(self) -> None:
        while not self._done.wait(0.02):
            for rank, state in enumerate(self._states):
                if rank not in self.silent:
                    self.slots.beat(rank, state)

    def verdict(self, seconds: float = 5.0) -> GroupLost:
        wait_until(lambda: bool(self.lost), seconds, "the group was lost")
        assert not any(is_running(process.pid) for process in self.processes)
        return self.lost[0]

    def close(self) -> None:
        self.supervisor.stop()
        self._done.set()
        self._beats.join()
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(*scripts: str, state: RankState = RankState.STEP) -> Watched:
        made.append(Watched(list(scripts), [state] * len(scripts)))
        return made[-1]

    yield make
    for item in made:
        item.close()


FOREVER = "exec sleep 60"


@pytest.mark.parametrize(
    ("scripts", "culprit", "words"),
    [
        (("kill -KILL $$", FOREVER), 0, "was killed by SIGKILL"),
        ((f"sleep 0.05; exit {EXIT_PEER_LOST}", "kill -SEGV $$"), 1, "was killed by SIGSEGV"),
        ((f"exit {EXIT_PEER_LOST}", "sleep 0.15; exit 1"), 1, "ended (exit code 1)"),
        ((FOREVER, f"exit {EXIT_DIVERGED}"), 1, "found its state to differ from rank 0's (exit code 72)"),
        ((FOREVER, "exit 0"), 1, "ended (exit code 0)"),
        ((f"exit {EXIT_PEER_LOST}", FOREVER), 0, "lost its peers (exit code 71)"),
    ],
)
def test_the_rank_that_died_of_its_own_is_named(
    watch: Callable[..., Watched], scripts: tuple[str, ...], culprit: int, words: str
) -> None:
    lost = watch(*scripts).verdict(2.0)
    assert lost.rank == culprit
    assert words in lost.reason


def test_a_stopped_rank_is_named_though_another_has_been_silent_longer(watch: Callable[..., Watched]) -> None:
    group = watch(FOREVER, FOREVER)
    group.silent.add(0)
    os.kill(group.processes[1].pid, signal.SIGSTOP)
    wait_until(lambda: group.slots.read(0)[0] > 0.1, 2.0, "rank 0 silent first")
    group.silent.add(1)
    lost = group.verdict()
    assert lost.rank == 1
    assert "its process is stopped" in lost.reason


def test_of_silent_ranks_that_run_the_longest_silent_is_named(watch: Callable[..., Watched]) -> None:
    group = watch(FOREVER, FOREVER)
    group.silent.add(1)
    wait_until(lambda: group.slots.read(1)[0] > 0.1, 2.0, "rank 1 silent first")
    group.silent.add(0)
    lost = group.verdict()
    assert lost.rank == 1
    assert "it is the longest silent" in lost.reason


def test_a_rank_that_loads_has_the_startup_timeout_and_one_that_is_stopped_then_has_not(
    watch: Callable[..., Watched],
) -> None:
    slow, stopped = watch(FOREVER, state=RankState.LOADING), watch(FOREVER, state=RankState.LOADING)
    os.kill(stopped.processes[0].pid, signal.SIGSTOP)
    slow.silent.add(0)
    stopped.silent.add(0)
    assert "stopped" in stopped.verdict().reason
    assert not slow.lost, "a rank that loads was killed after the hang timeout"
    assert "in state loading" in slow.verdict().reason


def test_ranks_that_beat_are_left_alone(watch: Callable[..., Watched]) -> None:
    group = watch(FOREVER, FOREVER)
    beats = group.slots.read(0)[1]
    wait_until(lambda: group.slots.read(0)[1] > beats + 60, 10.0, "beats for more than the hang timeout")
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
