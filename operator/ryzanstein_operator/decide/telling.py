"""When a decision says something new: what a status shows must not be written anew with every sample. Pure.

A new size is told at once. Everything else is paid for with TELL_SECONDS a time. A number waits until all that was told
is paid for; a reason is told at once, on credit. Under a load that stays as it is reasons may change with every sample
all the same (one of two targets decides, then the other; a window holds the size, then nothing does): the credit
is soon used up, and they are told no more often than numbers are.
"""

from dataclasses import dataclass, replace
from typing import Final

from ryzanstein_operator.decide.sizing import Decision

TELL_SECONDS: Final = 30.0
"""What one telling costs."""
CREDIT_SECONDS: Final = 90.0
"""So much may be owed when the next reason is told: four of them go one after the other."""


@dataclass(frozen=True)
class Told:
    """What the status says. due: when all that was told about this size will have been paid for, on the caller's clock,
    in seconds."""

    decision: Decision
    due: float


def news(decision: Decision, told: Told | None, now: float) -> bool:
    """Whether to tell `decision`, for what it says that the status does not say."""
    if told is None or decision.replicas != told.decision.replicas:
        return True
    if _reason(decision) != _reason(told.decision):
        return now >= told.due - CREDIT_SECONDS
    return now >= told.due and _words(decision) != _words(told.decision)


def tell(decision: Decision, told: Told | None, now: float) -> Told:
    """What the status says once `decision` has been told."""
    if told is None:  # before the first answer: that is not to wait for its number
        return Told(decision, now)
    if decision.replicas != told.decision.replicas:
        return Told(decision, now + TELL_SECONDS)
    return Told(decision, max(told.due, now) + TELL_SECONDS)


def as_told(decision: Decision, told: Told) -> Decision:
    """A decision that is not told, in the words of the one that was."""
    return replace(told.decision, wish=decision.wish, memory=decision.memory)


def _reason(decision: Decision) -> object:
    return decision.active, decision.limit, decision.metric, decision.target


def _words(decision: Decision) -> tuple[str, ...]:
    return decision.active_words, decision.limit_words, decision.value
