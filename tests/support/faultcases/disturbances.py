"""What goes wrong while a scenario runs: each says what it does before the first step and around every step."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from faultcases.lane import Lane
from faultproxy import Abort, Answer, Dropped, Fault, Freeze, Kind, Lines, Rule, every, nth
from faultproxy.streams import Cut

TOLD_APART = (Kind.WRITE, Kind.EVENT)
OUTAGE_SECONDS = 12.0
"""Longer than a leader keeps a Lease that it cannot renew."""


@dataclass(frozen=True)
class Nothing:
    """The fault-free run, and what the others build on.

    reach_seconds: within which a step's state must be reached. quiet_seconds: how long nothing may be written after.
    same_path: whether every step's state is passed through, so that everything is made and deleted as often.
    may_end: whether the operator may end by itself, as long as the next one comes to the same end.
    """

    reach_seconds: float = 60.0
    quiet_seconds: float = 2.0
    may_end: bool = False
    same_path: bool = True

    def begin(self, lane: Lane) -> None:
        """Before the first step."""
        lane.proxy.arm()

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        """Around the act of each step; what follows it is waited for after."""
        yield

    def met(self, lane: Lane) -> int:
        """How often the fault came about; if never, this was no case."""
        return 1

    def judge(self, lane: Lane) -> list[str]:
        """What this fault asks beyond the base oracles; a line for each thing that is wrong."""
        return []


@dataclass(frozen=True)
class Once(Nothing):
    """`fault` for the `number`-th call of a kind."""

    fault: Fault = field(default_factory=lambda: Answer(409))
    number: int = 1
    kind: Kind = Kind.WRITE

    def begin(self, lane: Lane) -> None:
        lane.proxy.arm(nth(self.number, self.kind, self.fault))

    def met(self, lane: Lane) -> int:
        return sum(call.note == str(self.fault) for call in lane.proxy.log)


@dataclass(frozen=True, kw_only=True)
class Twice(Nothing):
    """`fault` at two writes, the second `gap` after the first."""

    fault: Fault
    first: int
    gap: int

    def begin(self, lane: Lane) -> None:
        # The second rule sees no call that the first one took, so the repetition takes that call's place in its count.
        rules = [nth(number, Kind.WRITE, self.fault) for number in (self.first, self.first + self.gap)]
        lane.proxy.arm(*rules)

    def met(self, lane: Lane) -> int:
        return sum(call.note == str(self.fault) for call in lane.proxy.log)


@dataclass(frozen=True)
class Unsteady(Nothing):
    """Watch lines come late, twice or in another order, all the time."""

    lines: Lines | None = None

    def begin(self, lane: Lane) -> None:
        lane.proxy.arm(lines=self.lines)


@dataclass(frozen=True)
class Missed(Nothing):
    """Nothing comes through the watches while it happens; then they end with 410, as after a broken connection."""

    seconds: float = 1.5

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        lane.proxy.lines = Dropped()
        yield
        time.sleep(self.seconds)
        lane.proxy.lines = None
        lane.proxy.end_watches()


@dataclass(frozen=True)
class Gone(Nothing):
    """All watches end with 410 in the middle of it, again and again."""

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        yield
        for _ in range(3):
            time.sleep(0.15)
            lane.proxy.end_watches()


@dataclass(frozen=True)
class Halved(Nothing):
    """The next line of every watch is cut in half, and with it the connection. Where the answer is ended as if that
    were all, which no API server does, the operator may end and be started anew."""

    how: Cut = "abort"

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        lane.proxy.cut_watches(self.how)
        yield
        if self.may_end:
            lane.start_if_ended(15.0)


@dataclass(frozen=True)
class Swallowed(Nothing):
    """The connections of all watches die silently before the first step. The limit for silence is 70 s."""

    reach_seconds: float = 100.0

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step == 0:
            lane.proxy.swallow_watches()
        yield


@dataclass(frozen=True)
class Outage(Nothing):
    """Every call is met by `fault` from before the first step until `OUTAGE_SECONDS` after it."""

    fault: Fault = field(default_factory=Abort)
    reach_seconds: float = 30.0
    most_calls_a_second: float = 30.0
    most_writes_a_second: float = 4.0

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step > 0:
            yield
            return
        lane.proxy.rules = [Rule(every(self.fault).meets, self.fault)]
        lane.proxy.hang_up()
        yield
        time.sleep(OUTAGE_SECONDS)
        lane.proxy.rules = []

    def judge(self, lane: Lane) -> list[str]:
        met = [call for call in lane.proxy.log if call.note == str(self.fault)]
        writes = [call for call in met if call.verb != "GET"]
        limits = (("calls", met, self.most_calls_a_second), ("writes", writes, self.most_writes_a_second))
        found = [
            f"{len(calls)} {what} in an outage of {OUTAGE_SECONDS:.0f} s"
            for what, calls, most in limits
            if len(calls) > most * OUTAGE_SECONDS
        ]
        return found if met else ["no call met the outage"]


@dataclass(frozen=True)
class Stale(Nothing):
    """While no operator runs it all happens; the next one is shown the lists of before, and watches that are silent,
    until the API server has caught up."""

    seconds: float = 3.0
    same_path: bool = False

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step == 0:
            lane.past = lane.proxy.record()
            lane.kill()
        yield
        if last:
            lane.proxy.lag(lane.past)
            lane.start()
            _until(lambda: any(call.note == "an old list" for call in lane.proxy.log), 30.0)
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

    seconds: float = 40.0

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
    reach_seconds: float = 90.0

    def begin(self, lane: Lane) -> None:
        lane.on_kill = lambda: None
        lane.proxy.arm(nth(self.number, Kind.WRITE, Freeze()))

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        yield
        if step > 0 or not _until(lambda: self.met(lane) > 0, 20.0):
            return
        lane.start_guest()
        wait_for_lead(lane, 40.0)

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
    if not _until(lambda: loser.status is not None, 30.0):
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
