"""Whether a request goes on, waits or is turned away: the rules of one model's line.

Pure: what is known of the replicas and the time come in with each call, decisions go out. Knows nothing of tasks, HTTP,
keys' limits or whose replicas these are.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from ryzanstein_gateway.balance import FRESH_SECONDS, Candidate
from ryzanstein_gateway.fair_queue import Entry, FairQueue, Priority

ALLOWANCE: Final = 0.25
"""Requests beyond a replica's batch, as a share of it and at least one: they wait there, so that a place that becomes
free is taken without a round trip to the gateway."""
STANDING: Final = 1 / 6
"""A queue that has not been empty for this share of the timeout is no burst any more but overload: from then on nobody
is let in who would wait longer than this share. The idea of CoDel as servers use it (Ben Maurer, "Fail at Scale", ACM
Queue 13-8, 2015): a burst may use the whole queue, overload may not keep it full, and the backlog that it leaves is
short."""
PACE_SECONDS: Final = 5.0
"""Memory of the measured pace, where PACE_LEAST departures fall into it."""
PACE_LEAST_SECONDS: Final = 1.0
"""A shorter measure tells nothing."""
PACE_LEAST: Final = 8
"""So many departures are remembered however long ago they were: requests may take minutes, and leave in bursts."""
PACE_MOST: Final = 512
"""And never more of them; beyond a hundred a second the memory is shorter than PACE_SECONDS."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model's replicas can take. `replicas`: how many could be asked now.

    `slots`: requests that all of them take together, None where one of them does not say; `others`: how many of them
    are taken by requests that are not from this process.
    """

    replicas: int
    slots: int | None = None
    others: int = 0

    def room(self, own: int, members: int) -> float:
        """How many more requests of this process fit, of which `own` are there; `members` processes share the replicas.

        What the others have is a second old, and who is full would always be first to take what it frees itself. So
        each may have its equal share whatever it sees of the others, and they see that and make room.
        """
        if self.replicas == 0:
            return 0.0
        if self.slots is None:
            return math.inf
        return max(self.slots - self.others, math.ceil(self.slots / members)) - own


def capacity_of(candidates: Sequence[Candidate]) -> Capacity:
    """The capacity of those replicas that requests would go to: the best tier that any of them is in."""
    if not candidates:
        return Capacity(0)
    best = min(candidate.tier for candidate in candidates)
    slots, others = 0, 0
    for candidate in candidates:
        if candidate.tier != best:
            continue
        load = candidate.load
        if load is None or load.max_num_seqs <= 0:
            return Capacity(len(candidates))
        slots += load.max_num_seqs + max(1, math.floor(load.max_num_seqs * ALLOWANCE))
        if load.age_seconds <= FRESH_SECONDS:  # what others have there changes; how much it takes does not
            others += max(0, load.running + load.waiting - load.in_flight)
    return Capacity(len(candidates), slots, others)


class Why(StrEnum):
    """Why a request may not wait, or may not wait longer."""

    QUEUE_FULL = "queue_full"
    TOO_LATE = "too_late"
    """It would wait too long, by the pace at which the line moves."""
    TIMEOUT = "timeout"
    """It has waited as long as it may."""
    NO_REPLICA = "no_replica"
    """The same, and there was nobody to send it to."""


@dataclass(frozen=True, slots=True)
class Turned:
    """Turned away. `seconds`: when it may be worth another try."""

    why: Why
    seconds: float


class Pace:
    """Departures per second while others wait. Forgets when the line is empty."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=PACE_MOST)
        """First when the measure begins (somebody came to wait, or left), then each departure since."""

    def begin(self, now: float) -> None:
        """Somebody waits now, and nobody did."""
        self._times.clear()
        self._times.append(now)

    def end(self) -> None:
        """Nobody waits any more."""
        self._times.clear()

    def note(self, now: float) -> None:
        """One has left the line for a replica."""
        self._times.append(now)

    def waited_out(self, places: int, now: float) -> float | None:
        """Seconds until so many have left; None while that cannot be told: nobody has left so far, which says only
        that a request takes longer than this line exists."""
        while len(self._times) > PACE_LEAST + 1 and self._times[1] < now - PACE_SECONDS:
            self._times.popleft()
        departures = len(self._times) - 1
        if departures < 1 or now - self._times[0] < PACE_LEAST_SECONDS:
            return None
        return places * (now - self._times[0]) / departures


class Line(Generic[T]):
    """One model's line in one process. `own`: requests of this process at the replicas."""

    def __init__(self, *, bound: int, timeout: float, members: int) -> None:
        self.queue: FairQueue[T] = FairQueue(bound)
        self.timeout = timeout
        self.members = members
        self.own = 0
        self._pace = Pace()
        self._standing_since: float | None = None

    def enter(self, capacity: Capacity) -> bool:
        """Go on at once, if nobody waits and there is room. Whoever did is to `leave`."""
        if len(self.queue) or capacity.room(self.own, self.members) < 1:
            return False
        self.own += 1
        return True

    def leave(self) -> None:
        """A request that went on has ended."""
        self.own -= 1

    def wait(
        self, item: T, key: str, priority: Priority, capacity: Capacity, *, cost: float, now: float, deadline: float
    ) -> tuple[Entry[T] | Turned, Entry[T] | None]:
        """Wait, or be turned away. Gives besides who had to leave a full line for it."""
        estimate = self._pace.waited_out(self.queue.ahead(key, priority) + 1, now) if capacity.replicas else None
        if estimate is not None and estimate > min(self._patience(now), deadline - now):
            return Turned(Why.TOO_LATE, estimate), None
        entry, left = self.queue.push(item, key, priority, cost=cost, now=now, deadline=deadline)
        if entry is None:
            return (self.full(now) if capacity.replicas else self.overdue(capacity, now)), None
        if self._standing_since is None:
            self._standing_since = now
            self._pace.begin(now)
        return entry, left

    def go_on(self, capacity: Capacity, now: float) -> Entry[T] | None:
        """Whoever waited and may go on now; ask until there is none. Whoever did is to `leave`."""
        if not len(self.queue) or capacity.room(self.own, self.members) < 1:
            return None
        entry = self.queue.pop()
        self.own += 1
        self._pace.note(now)
        self._settle()
        return entry

    def expire(self, capacity: Capacity, now: float) -> tuple[list[Entry[T]], Turned]:
        """Those who have waited as long as they may, and what to tell them."""
        late = self.queue.expire(now)
        turned = self.overdue(capacity, now)
        self._settle()
        return late, turned

    def give_up(self, entry: Entry[T]) -> None:
        """One that waits no longer, by its own wish."""
        self.queue.remove(entry)
        self._settle()

    def overdue(self, capacity: Capacity, now: float) -> Turned:
        """What to tell one who has waited as long as it may."""
        if capacity.replicas == 0:
            return Turned(Why.NO_REPLICA, self.timeout * STANDING)
        return Turned(Why.TIMEOUT, self._pace.waited_out(len(self.queue), now) or 1.0)

    def full(self, now: float) -> Turned:
        """What to tell one who finds no place, or had to leave it for another."""
        return Turned(Why.QUEUE_FULL, self._pace.waited_out(len(self.queue), now) or 1.0)

    def _patience(self, now: float) -> float:
        """The longest wait that a newcomer is let in for, in seconds."""
        short = self.timeout * STANDING
        standing = self._standing_since is not None and now - self._standing_since > short
        return short if standing else self.timeout

    def _settle(self) -> None:
        if not len(self.queue):
            self._standing_since = None
            self._pace.end()
