"""What goes wrong between two operators, one after the other or both at once: an old picture, a lead that is lost."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faultcases.disturbances import Nothing
from faultcases.lane import Lane
from faultproxy import Freeze, Kind, nth

TOLD_APART = (Kind.WRITE, Kind.EVENT)


@dataclass(frozen=True)
class Stale(Nothing):
    """While no operator runs it all happens; the next one is shown the lists of before, and watches that are silent,
    until the API server has caught up."""

    seconds: float = 3.0
    same_path: bool = False

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step == 0:
            lane.kill()
        if last:  # what the earlier steps asked for is still to be done in the old picture
            lane.past = lane.proxy.record()
        yield
        if last:
            lane.proxy.lag(lane.past)
            lane.start()
            _until(lambda: any(call.note == "an old list" for call in lane.proxy.log), 60.0)
            time.sleep(self.seconds)
            lane.proxy.catch_up()

    def judge(self, lane: Lane) -> list[str]:
        """Nothing of a service that lives was deleted, and the operator did see the past."""
        living = {one["metadata"]["uid"] for (kind, _), one in lane.history.now().items() if kind == "InferenceService"}
        found = [
            f"{' '.join(state.ident)} of a living service was deleted"
            for state in lane.history.ordered()
            if state.event == "DELETED"
            for owner in state.manifest["metadata"].get("ownerReferences", ())
            if owner["uid"] in living
        ]
        return found if any(call.note == "an old list" for call in lane.proxy.log) else ["no list was old"]


@dataclass(frozen=True)
class TakenOver(Nothing):
    """The leader is frozen until another leads, all happens under that one, and then it wakes."""

    seconds: float = 80.0

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step > 0:
            yield
            return
        frozen = lane.operator
        lane.start_guest()
        frozen.send(signal.SIGSTOP)
        wait_for_lead(lane, self.seconds)
        lane.proxy.arm()
        yield
        frozen.send(signal.SIGCONT)

    def judge(self, lane: Lane) -> list[str]:
        return lost(lane)


@dataclass(frozen=True)
class FrozenAt(Nothing):
    """The leader is frozen in its write of this number, which never arrives; another takes over and comes to the end;
    then the first wakes and finds its call unanswered."""

    number: int = 1
    reach_seconds: float = 120.0

    def begin(self, lane: Lane) -> None:
        lane.on_kill = lambda: None
        lane.proxy.arm(nth(self.number, Kind.WRITE, Freeze()))

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        yield
        if step > 0 or not _until(lambda: self.met(lane) > 0, 20.0):
            return
        lane.start_guest()
        wait_for_lead(lane, 80.0)

    def met(self, lane: Lane) -> int:
        return sum(call.note == "frozen" for call in lane.proxy.log)

    def judge(self, lane: Lane) -> list[str]:
        if not self.met(lane):
            return []
        before = len(lane.proxy.log)
        lane.operators[-2].send(signal.SIGCONT)
        found = lost(lane)
        return found + [
            f"the loser wrote: {call}" for call in lane.proxy.log[before:] if call.verb not in ("GET", "PUT")
        ]


def wait_for_lead(lane: Lane, seconds: float) -> None:
    """Until the second operator holds the Lease. Raises AssertionError."""
    assert _until(lambda: lane.holder() == "two", seconds), f"the second operator does not lead after {seconds} s"


def lost(lane: Lane) -> list[str]:
    """What is wrong with a loser that has woken: it must end, and write nothing."""
    loser = lane.operators[-2]
    if not _until(lambda: loser.status is not None, 60.0):
        return ["the loser did not end"]
    writes = [
        call for call in lane.proxy.mutations if call.note != "frozen" and call.at > lane.operators[-1].started_at
    ]
    found = [f"the loser wrote: {call}" for call in writes]
    return found if loser.status == 1 else [*found, f"the loser ended with status {loser.status}"]


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
