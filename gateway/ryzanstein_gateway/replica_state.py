"""All that this process knows of one replica: its page, its breaker, how it did lately, what runs there.

Joins the pure parts (vitals, breaker, outlier) with the attempts in flight; makes no call.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ryzanstein_gateway.balance import Candidate, Endpoint, Load
from ryzanstein_gateway.breaker import Breaker
from ryzanstein_gateway.endpoints import ServiceKey
from ryzanstein_gateway.latency import Latency
from ryzanstein_gateway.outlier import Ejection, Sample, judge
from ryzanstein_gateway.vitals import STALL_SECONDS, Outcome, Status, Vitals, Why

SHUN_SECONDS: Final = 5.0
"""How long a replica that says it is draining is avoided: long enough for its EndpointSlice to change."""


HOPELESS_SECONDS: Final = 30.0
"""Where no other replica is sound, a request waits so long for one that shows no sign of life."""


class Attempt:
    """One request at one replica, as long as it is there. `cancelled_for_stall` once it was given up."""

    __slots__ = ("_task", "cancelled_for_stall", "waiting_since")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.waiting_since: float | None = None
        """Since when the replica owes the next byte; None while it does not, as when the client reads slowly."""
        self.cancelled_for_stall = False

    def give_up_if_silent(self, now: float, seconds: float) -> bool:
        """End the wait for a byte that has lasted so long. Only ever interrupts the wait, nothing that was read."""
        silent = self.waiting_since is not None and now - self.waiting_since >= seconds
        if not silent or self.cancelled_for_stall or self._task is None:
            return False
        self.cancelled_for_stall = True
        self._task.cancel()
        return True

    def absorb(self) -> bool:
        """In the handler of CancelledError: whether it came from give_up_if_silent, and from nowhere else besides."""
        return self.cancelled_for_stall and self._task is not None and self._task.uncancel() == 0


@dataclass(slots=True)
class ReplicaState:
    """Owned by the event loop."""

    endpoint: Endpoint
    service: ServiceKey
    health_port: int
    clock: Callable[[], float] = time.monotonic
    vitals: Vitals = field(default_factory=Vitals)
    breaker: Breaker = field(default_factory=Breaker)
    sample: Sample = field(default_factory=Sample)
    ejection: Ejection = field(default_factory=Ejection)
    shunned_until: float = 0.0
    latency: Latency = field(default_factory=Latency)
    attempts: set[Attempt] = field(default_factory=set)
    ready: bool = True
    """Whether Kubernetes calls it ready. One that is not takes no requests and is only asked how it is."""
    heard: bool = False
    """Whether it has ever answered a request."""

    def against(self, now: float) -> str:
        """What speaks against sending a request there, in one word; nothing where it is sound."""
        if self.endpoint.leaving:
            return "leaving"
        why = self.vitals.why()
        if why is not Why.NOTHING:
            return why.value
        if self.shunned_until > now:
            return "shunned"
        if not self.breaker.admits(now):
            return "breaker"
        return "ejected" if self.ejection.until > now else ""

    def candidate(self, now: float) -> Candidate:
        """As the balancer sees it."""
        against = self.against(now)
        tier = 2 if against in ("leaving", Why.DRAINING.value) else int(bool(against))
        return Candidate(self.endpoint, len(self.attempts), self._load(now), tier)

    def begin(self) -> Attempt:
        """A request is being sent there."""
        attempt = Attempt()
        self.attempts.add(attempt)
        self.breaker = self.breaker.began(self.clock())
        return attempt

    def first_byte(self, seconds: float) -> None:
        """The first byte of a stream came, so many seconds after it was asked for."""
        now = self.clock()
        self.heard = True
        if self.vitals.status is None or self.vitals.status.waiting == 0:
            self.latency.observe(seconds, now)
        self.sample = self.sample.first_byte(seconds)
        self.breaker = self.breaker.succeeded(now)

    def answered(self, *, error: bool) -> None:
        """A reply came to its end; `error`: its status says that the replica failed on this one request."""
        self.heard = True
        self.sample = self.sample.answered(error=error)
        self.breaker = self.breaker.succeeded(self.clock())

    def failed(self, *, certain: bool) -> None:
        """It could not be reached, or died with a request. `certain`: the next would fare alike."""
        self.breaker = self.breaker.failed(self.clock(), certain=certain)

    def told(self, status: Status) -> bool:
        """Its page was read; whether its ranks have started anew. Then nothing of before is held against it."""
        before = self.vitals.status
        anew = before is not None and before.epoch != status.epoch
        if anew:
            self.breaker, self.shunned_until, self.ejection = Breaker(), 0.0, Ejection()
        self.vitals = self.vitals.told(status, self.clock(), len(self.attempts))
        return anew

    def missed(self, outcome: Outcome) -> None:
        """Its page could not be read."""
        self.vitals = self.vitals.missed(outcome)

    def shun(self) -> None:
        """It says that it is draining."""
        self.shunned_until = self.clock() + SHUN_SECONDS

    def give_up_stalled(self, now: float, *, alternative: bool) -> int:
        """Where it shows no sign of life, end what waits there for its next byte; how many that were.

        Without an alternative much later: it may come to, and that is the only hope these requests have.
        """
        if not self.vitals.stalled(now):
            return 0
        seconds = STALL_SECONDS if alternative else HOPELESS_SECONDS
        return sum(attempt.give_up_if_silent(now, seconds) for attempt in [*self.attempts])

    def _load(self, now: float) -> Load | None:
        status = self.vitals.status
        if status is None:
            return None
        return Load(
            running=status.running,
            waiting=status.waiting,
            kv_cache_usage=status.kv_cache_usage,
            max_num_seqs=status.max_num_seqs,
            in_flight=self.vitals.in_flight,
            latency_seconds=self.latency.recent(now),
            age_seconds=now - self.vitals.told_at,
            beat_age=status.beat_age,
        )


def eject_outliers(group: Sequence[ReplicaState], now: float) -> int:
    """Compare the replicas of one model with each other and begin new samples; how many were ejected."""
    samples = {one.endpoint.host: one.sample for one in group}
    after = judge(samples, {one.endpoint.host: one.ejection for one in group}, now)
    ejected = sum(after[one.endpoint.host].times > one.ejection.times for one in group)
    for one in group:
        one.ejection = after[one.endpoint.host]
        one.sample = Sample()
    return ejected
