"""The status and the Events that tell of its changes. Pure; dates a condition anew only when its status changes."""

from collections.abc import Iterator
from datetime import datetime

from ryzanstein_operator.api.autoscaling import AutoscalingStatus
from ryzanstein_operator.api.conditions import Condition, ConditionType
from ryzanstein_operator.api.inference_service import Failure, Operation, ServedModel, Status
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide import operation
from ryzanstein_operator.decide.conditions import Verdict, verdicts
from ryzanstein_operator.decide.facts import Facts
from ryzanstein_operator.decide.groups import pods_a_replica
from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_operator.decide.pods import worst
from ryzanstein_operator.decide.scaled import cause_words, scaling_words
from ryzanstein_operator.decide.times import text_of
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.gateway import service_url
from ryzanstein_operator.settings import Settings

_MESSAGE_LIMIT = 1024
_FAILURES = (
    Reason.OUT_OF_MEMORY,
    Reason.MODEL_UNUSABLE,
    Reason.DOWNLOAD_FAILING,
    Reason.CRASH_LOOP,
    Reason.RESTARTING,
    Reason.REPLICA_UNREACHABLE,
    Reason.NODE_NOT_READY,
    Reason.NODE_UNREACHABLE,
    Reason.ACCELERATOR_FAULT,
)
"""What happened to a replica that ran or tried to, and is worth remembering when it is over. One that waits for
something has not failed, nor has one that is slow."""


def status_of(live: Manifest, facts: Facts, settings: Settings, now: datetime) -> Status:
    """The whole status of the service whose live manifest is `live`."""
    generation = int(live["metadata"].get("generation", 0))
    before = old_conditions(live)
    conditions = [
        _dated(kind, verdict, before.get(kind, {}), generation, now) for kind, verdict in verdicts(facts).items()
    ]
    return Status(
        observed_generation=generation,
        replicas=len(facts.workers),
        ready_replicas=len(facts.ready),
        desired_replicas=facts.wanted if facts.service else int(_live_status(live).get("desiredReplicas") or 0),
        updated_replicas=len(facts.updated) if facts.revision else 0,
        selector=names.selector_text(live["metadata"]["name"], pods_a_replica(live)),
        url=service_url(settings),
        model=ServedModel(name=facts.service.model_name, uri=facts.service.spec.model.uri) if facts.service else None,
        nodes=sorted({node for worker in facts.ready for node in (worker.node, *worker.companions) if node}),
        autoscaling=_autoscaling(live, facts, now),
        operation=_operation(live, facts),
        last_failure=_last_failure(live, facts, now),
        unhealthy_nodes=list(facts.unhealthy_nodes),
        conditions=conditions,
    )


def _autoscaling(live: Manifest, facts: Facts, now: datetime) -> AutoscalingStatus | None:
    """How the size came about. What stands is kept where the spec cannot be read or nothing has been decided."""
    before = _live_status(live).get("autoscaling") or None
    if facts.service and facts.service.spec.autoscaling is None:
        return None
    decision = facts.decision
    if decision is None:
        return AutoscalingStatus.model_validate(before) if before else None
    last = text_of(now) if facts.wanted != facts.before else (before or {}).get("lastScaleTime")
    return AutoscalingStatus(
        metric=decision.metric,
        value=decision.value,
        target=decision.target,
        message=scaling_words(decision)[:_MESSAGE_LIMIT],
        last_scale_time=last,
    )


def rescale_events(facts: Facts) -> Iterator[EmitEvent]:
    """An Event for a size that differs from the one before, with what called for it."""
    if facts.decision and facts.wanted != facts.before:
        words = f"{facts.before} to {facts.wanted} replicas: {cause_words(facts.decision)}"
        limit = f"; {facts.decision.limit_words}" if facts.decision.limit else ""
        yield EmitEvent("Normal", Reason.RESCALED, f"{words}{limit}"[:_MESSAGE_LIMIT])


def _live_status(live: Manifest) -> Manifest:
    return live.get("status") or {}


def _operation(live: Manifest, facts: Facts) -> Operation | None:
    """What has just been decided; where the spec cannot be run nothing is, and what was under way stays on record."""
    record = facts.turn.record if facts.turn else None
    if facts.service is None:
        record = operation.read(live)
    return record.to_wire() if record else None


def _last_failure(live: Manifest, facts: Facts, now: datetime) -> Failure | None:
    """The one that has just been seen; told again, it keeps its first time. What became of a group outweighs what one
    of its pods said."""
    before = old_failure(live)
    new = (facts.turn.failure if facts.turn else None) or _pod_failure(facts, now)
    return new if new and not _told_before(new, before) else before


def _pod_failure(facts: Facts, now: datetime) -> Failure | None:
    """Of the replicas that failed the one whose trouble is gravest."""
    failed = [(one.name, one.trouble) for one in facts.workers if one.trouble and one.trouble.reason in _FAILURES]
    gravest = worst(trouble for _, trouble in failed)
    if gravest is None:
        return None
    target = next(name for name, trouble in failed if trouble == gravest)
    words = gravest.message[:_MESSAGE_LIMIT]
    return Failure(time=text_of(now), reason=gravest.reason, message=words, target=target)


def failure_events(live: Manifest, failure: Failure | None) -> Iterator[EmitEvent]:
    """An Event for a failure that the status does not tell of yet."""
    if failure and not _told_before(failure, old_failure(live)):
        yield EmitEvent("Warning", failure.reason, failure.message)


def _told_before(new: Failure, before: Failure | None) -> bool:
    return before is not None and (before.reason, before.target) == (new.reason, new.target)


def old_failure(live: Manifest) -> Failure | None:
    """What went wrong last, as the status says now."""
    try:
        return Failure.model_validate((live.get("status") or {})["lastFailure"])
    except (KeyError, ValueError):
        return None


def old_conditions(live: Manifest) -> dict[str, Manifest]:
    """The conditions that stand now, by type."""
    return {condition["type"]: condition for condition in live.get("status", {}).get("conditions") or ()}


def _dated(kind: ConditionType, verdict: Verdict, old: Manifest, generation: int, now: datetime) -> Condition:
    same = old.get("status") == verdict.status and old.get("lastTransitionTime")
    message = verdict.message
    return Condition(
        type=kind,
        status=verdict.status,
        reason=verdict.reason,
        message=message if len(message) <= _MESSAGE_LIMIT else f"{message[: _MESSAGE_LIMIT - 4]} ...",
        observed_generation=generation,
        last_transition_time=str(same) if same else text_of(now),
    )


def transition_events(live: Manifest, status: Status) -> Iterator[EmitEvent]:
    """An Event for each change worth a person's while, one for each cause."""
    before, told = old_conditions(live), set()
    for condition in status.conditions:
        event = _event(condition, before.get(condition.type, {}))
        if event and event not in told:
            told.add(event)
            yield event
    yield from _node_events(live, status)


def _node_events(live: Manifest, status: Status) -> Iterator[EmitEvent]:
    before = {one["name"]: one["reason"] for one in live.get("status", {}).get("unhealthyNodes") or ()}
    for node in status.unhealthy_nodes:
        if before.get(node.name) != node.reason:
            yield EmitEvent("Warning", Reason.NODE_UNHEALTHY, f"{node.name}: {node.reason}: {node.message}")
    for name in sorted(before.keys() - {node.name for node in status.unhealthy_nodes}):
        yield EmitEvent("Normal", Reason.NODE_RECOVERED, f"{name} is counted on again")


def _event(new: Condition, old: Manifest) -> EmitEvent | None:
    turned = new.status != old.get("status", _BEFORE_FIRST_VISIT[new.type])
    other_cause = new.reason != old.get("reason")
    match new.type, new.status:
        case (ConditionType.READY, "True") | (ConditionType.MODEL_CACHED, "True") if turned and _worth_telling(new):
            return EmitEvent("Normal", new.reason, new.message)
        case ConditionType.READY, "False" if turned and new.reason in (Reason.REPLICAS_STARTING, Reason.SCALED_TO_ZERO):
            return EmitEvent("Normal", new.reason, new.message)
        case ConditionType.SERVING, "False" if turned or (other_cause and new.reason == Reason.MODEL_NAME_TAKEN):
            return EmitEvent("Warning", new.reason, new.message)
        case ConditionType.PROGRESSING, "False" if turned and new.reason == Reason.ROLLOUT_COMPLETE:
            return EmitEvent("Normal", new.reason, new.message)
        case ConditionType.SCALING_ACTIVE, "True" if old.get("reason") == Reason.METRICS_UNAVAILABLE:
            return EmitEvent("Normal", new.reason, new.message)
        case ConditionType.SCALING_ACTIVE, "False" if other_cause and new.reason == Reason.METRICS_UNAVAILABLE:
            return EmitEvent("Warning", new.reason, new.message)
        case ConditionType.SCALING_LIMITED, "True" if other_cause and new.reason == Reason.CAPACITY_UNAVAILABLE:
            return EmitEvent("Warning", new.reason, new.message)
        case ConditionType.DEGRADED, "True" if turned or other_cause:
            return EmitEvent("Warning", new.reason, new.message)
    return None


# As if a service had always been on its way up: what is not yet is no event.
_BEFORE_FIRST_VISIT = {
    ConditionType.READY: "False",
    ConditionType.SERVING: "False",
    ConditionType.PROGRESSING: "True",
    ConditionType.MODEL_CACHED: "False",
    ConditionType.CAPACITY_AVAILABLE: "True",
    ConditionType.SCALING_ACTIVE: "False",
    ConditionType.SCALING_LIMITED: "False",
    ConditionType.DEGRADED: "False",
}


def _worth_telling(condition: Condition) -> bool:
    return condition.reason not in (Reason.IN_IMAGE, Reason.ON_CLAIM)
