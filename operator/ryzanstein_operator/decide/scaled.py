"""What the conditions say of a size that follows the load. Pure; the decision itself is `scale.py`'s."""

from typing import Final

from ryzanstein_operator.api.conditions import Status
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.facts import Facts
from ryzanstein_operator.decide.sizing import Decision

Verdict = tuple[Status, Reason, str]
UNREAD: Final = "the spec cannot be read"
_NOT_SET: Final = "spec.autoscaling is not set; spec.replicas holds"
_NOT_YET: Final = "no target of spec.autoscaling has been looked at so far, and the size is held"


def scaling_active(facts: Facts) -> Verdict:
    """Whether the size follows the load."""
    if facts.service is None:
        return "Unknown", Reason.INVALID_SPEC, UNREAD
    if facts.service.spec.autoscaling is None:
        return "False", Reason.NOT_CONFIGURED, _NOT_SET
    decision = facts.decision
    if decision is None or decision.active == Reason.PENDING:
        return "Unknown", Reason.PENDING, (decision and decision.active_words) or _NOT_YET
    status: Status = "False" if decision.active == Reason.METRICS_UNAVAILABLE else "True"
    return status, decision.active, decision.active_words


def scaling_limited(facts: Facts) -> Verdict:
    """What keeps the size from what the load calls for."""
    if facts.service is None:
        return "Unknown", Reason.INVALID_SPEC, UNREAD
    if facts.service.spec.autoscaling is None:
        return "False", Reason.NOT_CONFIGURED, _NOT_SET
    decision = facts.decision
    if decision is not None and decision.limit is not None:
        return "True", decision.limit, decision.limit_words
    if decision is None or decision.active in (Reason.PENDING, Reason.METRICS_UNAVAILABLE):
        return "Unknown", Reason.PENDING, "what the targets of spec.autoscaling call for is not known"
    return "False", Reason.WITHIN_BOUNDS, f"{_replicas(decision.replicas)} as the targets call for"


def zero_words(facts: Facts) -> str:
    """Why there is to be no replica."""
    if facts.service is None or facts.service.spec.autoscaling is None:
        return "spec.replicas is 0"
    if facts.decision and facts.decision.active == Reason.AT_ZERO:
        return f"{facts.decision.active_words} (spec.autoscaling.minReplicas is 0)"
    return "spec.autoscaling has come to 0; the next request brings a replica"


def scaling_words(decision: Decision) -> str:
    """Why it is this size, and why not more."""
    return f"{decision.active_words}; {decision.limit_words}" if decision.limit else decision.active_words


def cause_words(decision: Decision) -> str:
    """Of a change: what called for it."""
    if decision.metric:
        return f"{decision.metric} is {decision.value}, to be kept at {decision.target}"
    return decision.active_words


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
