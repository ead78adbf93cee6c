"""What goes wrong while a scenario runs: each says what it does before the first step and around every step."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from faultcases.lane import Lane
from faultproxy import Abort, Answer, Dropped, Fault, Kind, Lines, Rule, every, nth
from faultproxy.streams import Cut

OUTAGE_SECONDS = 12.0
"""Longer than a leader keeps a Lease that it cannot renew."""


@dataclass(frozen=True)
class Nothing:
    """The fault-free run, and what the others build on.

    reach_seconds: within which a step's state must be reached. quiet_seconds: how long nothing may be written after.
    same_path: whether every step's state is passed through, so that everything is made and deleted as often.
    may_end: whether the operator may end by itself, as long as the next one comes to the same end.
    """

    reach_seconds: float = 120.0
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
            lane.start_if_ended(30.0)


@dataclass(frozen=True)
class Swallowed(Nothing):
    """The connections of all watches die silently before the first step. The limit for silence is 70 s."""

    reach_seconds: float = 150.0

    @contextlib.contextmanager
    def around(self, lane: Lane, step: int, last: bool) -> Iterator[None]:
        if step == 0:
            lane.proxy.swallow_watches()
        yield


@dataclass(frozen=True)
class Outage(Nothing):
    """Every call is met by `fault` from before the first step until `OUTAGE_SECONDS` after it."""

    fault: Fault = field(default_factory=Abort)
    reach_seconds: float = 60.0
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
        if not met:
            return ["no call met the outage"]
        seconds = max(OUTAGE_SECONDS, met[-1].at - met[0].at)  # longer where the machine stood still
        limits = (("calls", met, self.most_calls_a_second), ("writes", writes, self.most_writes_a_second))
        return [
            f"{len(calls)} {what} in an outage of {seconds:.0f} s"
            for what, calls, most in limits
            if len(calls) > most * seconds
        ]
