"""What a replica's health page has said, and what follows from it.

Pure: each check gives the next state, the time comes in. Knows the page of contract.HEALTH_STATUS; makes no call.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Annotated, Final

import msgspec

LAG_SECONDS: Final = 3.0
"""A replica whose slowest rank has not moved for so long gets no new requests."""
STALL_SECONDS: Final = 4.0
"""One that has shown no sign of life for so long loses its streams to another."""
CHECKS_REMEMBERED: Final = 3
FAILURES_TO_LEAVE: Final = 2
"""So many failed checks of those remembered; a refused connection is enough alone."""


Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
"""Bounded, so that no page can upset the arithmetic by which all replicas of a model are chosen."""


class Status(msgspec.Struct, frozen=True):
    """The page; one with numbers out of bounds is none. `beat_age` in seconds, `epoch` changes with each start of the
    group of ranks, `reason` is a sentence, and so is `accelerator_fault`, which is empty where all is well."""

    phase: str = "serving"
    ready: bool = True
    reason: str = ""
    epoch: str = ""
    beat_age: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    running: Count = 0
    waiting: Count = 0
    kv_cache_usage: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    max_num_seqs: Count = 0
    accelerator_fault: str = ""


class Outcome(Enum):
    """How a check went that brought no page."""

    REFUSED = "refused"
    """Nobody listens there."""
    FAILED = "failed"
    """No answer in time, or no connection."""
    BROKEN = "broken"
    """Something answered, but with no page, or broke off."""


class Why(StrEnum):
    """What speaks against sending a request to a replica."""

    NOTHING = ""
    UNREACHABLE = "unreachable"
    LAGGING = "lagging"
    DRAINING = "draining"
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is known of one replica by its page. One that never showed a page is judged by its answers alone: any
    OpenAI-compatible server may stand behind a route."""

    status: Status | None = None
    told_at: float = 0.0
    """When the page was read."""
    in_flight: int = 0
    """Requests that this process had there then."""
    failed: tuple[bool, ...] = ()
    """Whether each of the last checks failed, the newest last."""
    last: Outcome | None = None
    """How the last one failed; None where it did not."""

    def told(self, status: Status, now: float, in_flight: int = 0) -> "Vitals":
        """The page was read."""
        return Vitals(status, now, in_flight, self._remembered(failed=False))

    def missed(self, outcome: Outcome) -> "Vitals":
        """The page could not be read."""
        return replace(self, failed=self._remembered(failed=True), last=outcome)

    def why(self) -> Why:
        """What speaks against sending a request there."""
        if self.status is None:
            return Why.NOTHING
        if self.is_missing():
            return Why.UNREACHABLE
        if self.status.phase == "draining":
            return Why.DRAINING
        if self.status.beat_age > LAG_SECONDS:
            return Why.LAGGING
        return Why.NOTHING if self.status.ready and not self.status.accelerator_fault else Why.NOT_READY

    def stalled(self, now: float) -> bool:
        """Whether there has been no sign of life for so long that what runs there should go elsewhere."""
        if self.status is None or not (self.is_missing() or self.status.beat_age > LAG_SECONDS):
            return False
        return now - (self.told_at - self.status.beat_age) >= STALL_SECONDS

    def is_missing(self) -> bool:
        """Whether the last checks have failed, be it that it never had a page."""
        return self.last is Outcome.REFUSED or self.failed.count(True) >= FAILURES_TO_LEAVE

    def _remembered(self, *, failed: bool) -> tuple[bool, ...]:
        return (*self.failed, failed)[-CHECKS_REMEMBERED:]
