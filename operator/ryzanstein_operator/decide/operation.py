"""The record of what is under way with the groups of a service, as the status keeps it. Pure.

It holds what no object shows: how often a placement was tried, until when it is not tried again, and that a rollout has
no spare capacity. All else is read from the objects at each visit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ryzanstein_operator.api.inference_service import Operation
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.times import moment, text_of

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=5)
_IN_PLACE = "-in-place"
_WORDS_LIMIT = 1024


class Type(StrEnum):
    """What the operator is about."""

    ROLLOUT = "Rollout"
    REPLACE = "Replace"
    SCALE = "Scale"
    PLACE = "Place"


class Step(StrEnum):
    """Where it is. WITHDRAW is written down before it is done: what is deleted tells no more why."""

    WITHDRAW = "Withdraw"
    PLACE = "Place"
    PAUSE = "Pause"
    DRAIN = "Drain"
    START = "Start"


@dataclass(frozen=True)
class Record:
    """`Operation` with times for texts."""

    id: str
    type: Type
    step: Step
    target: str
    tries: int
    deadline: datetime
    message: str = ""

    @property
    def in_place(self) -> bool:
        """This rollout has no spare capacity: an old group goes before a new one comes."""
        return self.id.endswith(_IN_PLACE)

    def to_wire(self) -> Operation:
        return Operation(
            id=self.id,
            type=self.type,
            step=self.step,
            target=self.target,
            tries=self.tries,
            deadline=text_of(self.deadline),
            message=self.message[:_WORDS_LIMIT],
        )


def read(service: Manifest) -> Record | None:
    """The record in a live service's status; None where there is none, or none that this version can read."""
    try:
        kept = Operation.model_validate((service.get("status") or {})["operation"])
        deadline = moment(kept.deadline)
        return Record(kept.id, Type(kept.type), Step(kept.step), kept.target, kept.tries, deadline, kept.message)
    except (KeyError, TypeError, ValueError):
        return None


def rollout_id(revision: str, *, in_place: bool) -> str:
    """Of one rollout, so that a newer spec begins another."""
    return f"rollout-{revision}{_IN_PLACE if in_place else ''}"


def pause(tries: int) -> timedelta:
    """How long after the withdrawal number `tries` the placement is tried again: each time twice as long."""
    return min(FIRST_PAUSE * float(2 ** min(tries - 1, 16)), LONGEST_PAUSE)
