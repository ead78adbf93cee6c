"""Which conditions are not as they should be, and what to do about each. Pure.

Judges by status first: an operator of another version may give reasons that this one does not know.
"""

from datetime import datetime

from ryzanstein_kubectl.model.ages import parse_time, seconds_since
from ryzanstein_kubectl.model.scaling import wanted
from ryzanstein_kubectl.model.tree import Concern, Failure, Mood, Operation, UnhealthyNode
from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import REMEDY, Reason
from ryzanstein_operator.api.wire import Manifest

_GOOD = {
    ConditionType.READY: "True",
    ConditionType.SERVING: "True",
    ConditionType.MODEL_CACHED: "True",
    ConditionType.CAPACITY_AVAILABLE: "True",
    ConditionType.DEGRADED: "False",
}
_UNDER_WAY = (
    Reason.ROLLING_OUT,
    Reason.NO_SPARE_CAPACITY,
    Reason.REPLICAS_STARTING,
    Reason.DOWNLOADING,
    Reason.PENDING,
    Reason.ROLLOUT_COMPLETE,
)
_TOO_SMALL = (Reason.AT_MAXIMUM, Reason.CAPACITY_UNAVAILABLE)
"""Limits that somebody may want to lift; the others are as they were asked for, or pass by themselves."""
_SOON_SECONDS = 300.0
"""A service without any status is given so long before that is called wrong: the operator may just be starting."""


def concerns(service: Manifest, now: datetime) -> tuple[Concern, ...]:
    """The conditions worth a look, those of one reason together, what is broken first."""
    conditions = service.get("status", {}).get("conditions") or ()
    if not conditions:
        return (_unseen(service, now),)
    if wanted(service) == 0:  # as it was asked for, or nobody asks for anything
        conditions = [condition for condition in conditions if condition["reason"] != Reason.SCALED_TO_ZERO]
    found: dict[str, list[Manifest]] = {}
    for condition in conditions:
        if not _as_it_should_be(condition):
            found.setdefault(condition["reason"], []).append(condition)
    made = [_concern(group, now) for group in found.values()]
    return tuple(sorted(made, key=lambda concern: concern.mood != "bad"))


def _as_it_should_be(condition: Manifest) -> bool:
    if condition["type"] == ConditionType.PROGRESSING:
        return (condition["status"], condition["reason"]) == ("False", Reason.ROLLOUT_COMPLETE)
    if condition["type"] == ConditionType.SCALING_ACTIVE:
        return bool(condition["status"] == "True" or condition["reason"] == Reason.NOT_CONFIGURED)
    if condition["type"] == ConditionType.SCALING_LIMITED:
        return condition["status"] != "True" or condition["reason"] not in _TOO_SMALL
    good = _GOOD.get(condition["type"])
    return good is None or bool(condition["status"] == good)


def _concern(group: list[Manifest], now: datetime) -> Concern:
    first = group[0]
    under_way = first["reason"] in (*_UNDER_WAY, *_TOO_SMALL) or (
        first["type"] == "Progressing" and first["status"] == "True"
    )
    mood: Mood = "waiting" if under_way else "bad"
    return Concern(
        conditions=tuple(f"{item['type']}={item['status']}" for item in group),
        mood=mood,
        reason=first["reason"],
        messages=_messages(group),
        remedy=_remedy(first["reason"]),
        since_seconds=seconds_since(first.get("lastTransitionTime", ""), now),
    )


def _messages(group: list[Manifest]) -> tuple[str, ...]:
    """What they say, each once; one that another one says besides more is left out."""
    said = dict.fromkeys(str(item.get("message", "")) for item in group)
    return tuple(one for one in said if one and not any(one != other and one in other for other in said))


def _remedy(reason: str) -> str:
    try:
        return REMEDY.get(Reason(reason), "")
    except ValueError:
        return ""


def _unseen(service: Manifest, now: datetime) -> Concern:
    age = seconds_since(service["metadata"].get("creationTimestamp", ""), now)
    mood: Mood = "bad" if age is not None and age > _SOON_SECONDS else "waiting"
    message = "the operator has not looked at this service yet"
    remedy = "See whether the operator runs (kubectl get deployments -A) and whether it watches this namespace."
    return Concern((), mood, "NoStatus", (message,), remedy, age)


def operation(service: Manifest, now: datetime) -> Operation | None:
    """What the operator is in the middle of."""
    live = service.get("status", {}).get("operation")
    if not live:
        return None
    deadline = parse_time(live.get("deadline", ""))
    return Operation(
        type=str(live.get("type", "")),
        step=str(live.get("step", "")),
        target=str(live.get("target", "")),
        tries=int(live.get("tries", 0)),
        seconds_left=None if deadline is None else (deadline - now).total_seconds(),
        message=str(live.get("message", "")),
    )


def last_failure(service: Manifest, now: datetime) -> Failure | None:
    """What went wrong last."""
    live = service.get("status", {}).get("lastFailure")
    if not live:
        return None
    ago = seconds_since(live.get("time", ""), now)
    return Failure(str(live.get("reason", "")), str(live.get("message", "")), str(live.get("target", "")), ago)


def unhealthy_nodes(service: Manifest, now: datetime) -> tuple[UnhealthyNode, ...]:
    """The nodes that the operator does not count on."""
    return tuple(
        UnhealthyNode(
            name=str(live["name"]),
            reason=str(live["reason"]),
            message=str(live.get("message", "")),
            since_seconds=seconds_since(live.get("since", ""), now),
        )
        for live in service.get("status", {}).get("unhealthyNodes") or ()
    )
