"""When a decision says something new: what a status shows must not be written anew with every sample. Pure."""

from dataclasses import replace
from typing import Final

from ryzanstein_operator.decide.sizing import Decision

TELL_SECONDS: Final = 30.0
"""A number that changed, and nothing else, is told no more often."""


def essence(decision: Decision) -> object:
    """What is worth telling at once."""
    return decision.replicas, decision.active, decision.limit, decision.metric, decision.target


def news(decision: Decision, told: Decision | None, age: float) -> bool:
    """Whether `decision` says what `told`, `age` seconds ago, did not."""
    if told is None or essence(decision) != essence(told):
        return True
    return age >= TELL_SECONDS and _words(decision) != _words(told)


def as_told(decision: Decision, told: Decision) -> Decision:
    """The decision, in the words of the one before."""
    return replace(decision, active_words=told.active_words, limit_words=told.limit_words, value=told.value)


def _words(decision: Decision) -> tuple[str, ...]:
    return decision.active_words, decision.limit_words, decision.value
