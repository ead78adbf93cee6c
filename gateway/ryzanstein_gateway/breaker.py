"""A circuit breaker of one replica: closed, open, half-open.

Pure: a frozen state, the time comes in, each event gives the next state. The pattern: Nygard, Release It!, 2007.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace


class Phase(StrEnum):
    """What a breaker lets through: everything, nothing, one request at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to open and when to close again. Times are seconds."""

    most_in_a_row: int = 3
    """So many failures, with no success between, open it."""
    window: float = 30.0
    most_share: float = 0.5
    """So large a share of failures in a window opens it, if the window has `least_requests`."""
    least_requests: int = 10
    open_for: float = 5.0
    """The first time; twice as long each time that a trial fails."""
    open_for_most: float = 60.0
    trials: int = 2
    """So many successes close it again."""


DEFAULT: Final = BreakerPolicy()


class Breaker(msgspec.Struct, frozen=True):
    """One state. Times are of the caller's clock, in seconds."""

    opened_at: float | None = None
    openings: int = 0
    """In a row: how often it has opened since it was closed for good."""
    failures_in_a_row: int = 0
    window_began: float = 0.0
    requests: int = 0
    failures: int = 0
    successes: int = 0
    """Of trials, since it opened."""
    trial_began: float | None = None

    def phase(self, now: float, policy: BreakerPolicy = DEFAULT) -> Phase:
        """What it lets through now."""
        if self.opened_at is None:
            return Phase.CLOSED
        return Phase.HALF_OPEN if now - self.opened_at >= self._open_for(policy) else Phase.OPEN

    def admits(self, now: float, policy: BreakerPolicy = DEFAULT) -> bool:
        """Whether a request should be sent. A trial that has said nothing for as long as it was open is forgotten."""
        phase = self.phase(now, policy)
        trying = self.trial_began is not None and now - self.trial_began < self._open_for(policy)
        return phase is Phase.CLOSED or (phase is Phase.HALF_OPEN and not trying)

    def began(self, now: float, policy: BreakerPolicy = DEFAULT) -> "Breaker":
        """A request is being sent: while half-open it is the trial."""
        return replace(self, trial_began=now) if self.phase(now, policy) is Phase.HALF_OPEN else self

    def succeeded(self, now: float, policy: BreakerPolicy = DEFAULT) -> "Breaker":
        """A replica answered."""
        match self.phase(now, policy):
            case Phase.CLOSED:
                return replace(self._counted(now, policy, failed=False), failures_in_a_row=0)
            case Phase.HALF_OPEN if self.successes + 1 >= policy.trials:
                return Breaker(window_began=now)
            case Phase.HALF_OPEN:
                return replace(self, successes=self.successes + 1, trial_began=None)
        return self  # it was sent before the breaker opened: that says nothing about now

    def failed(self, now: float, policy: BreakerPolicy = DEFAULT, *, certain: bool = False) -> "Breaker":
        """A request failed. `certain`: nothing can come of another one now, as where a connection is refused."""
        match self.phase(now, policy):
            case Phase.OPEN:
                return self
            case Phase.HALF_OPEN:
                return self._opened(now)
        counted = replace(self._counted(now, policy, failed=True), failures_in_a_row=self.failures_in_a_row + 1)
        full = counted.requests >= policy.least_requests
        if (
            certain
            or counted.failures_in_a_row >= policy.most_in_a_row
            or (full and counted.failures >= policy.most_share * counted.requests)
        ):
            return counted._opened(now)
        return counted

    def _open_for(self, policy: BreakerPolicy) -> float:
        return min(policy.open_for_most, policy.open_for * 2.0 ** min(self.openings - 1, 16))

    def _opened(self, now: float) -> "Breaker":
        return Breaker(opened_at=now, openings=self.openings + 1)

    def _counted(self, now: float, policy: BreakerPolicy, *, failed: bool) -> "Breaker":
        if now - self.window_began >= policy.window:
            return replace(self, window_began=now, requests=1, failures=int(failed))
        return replace(self, requests=self.requests + 1, failures=self.failures + failed)
