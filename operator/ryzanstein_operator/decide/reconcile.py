"""From what is wanted and what is seen to what is to be done. Level-triggered: never asks what happened. Pure."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from ryzanstein_operator.api.inference_service import InferenceService, Status
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest, SpecError, parse
from ryzanstein_operator.decide import group_plan
from ryzanstein_operator.decide.compare import covers, differences
from ryzanstein_operator.decide.demand import demand_events, size_words
from ryzanstein_operator.decide.facts import gather
from ryzanstein_operator.decide.groups import is_group, pods_a_replica
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import Action, Apply, Delete, EmitEvent, PatchStatus, Plan
from ryzanstein_operator.decide.pods import Trouble
from ryzanstein_operator.decide.routes import reconcile_routes
from ryzanstein_operator.decide.size import held, in_force
from ryzanstein_operator.decide.status import failure_events, rescale_events, status_of, transition_events
from ryzanstein_operator.decide.steps import next_change
from ryzanstein_operator.decide.turn import Turn
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.children import children, revision
from ryzanstein_operator.settings import Settings

__all__ = ["reconcile", "reconcile_routes"]

CONFLICT_SECONDS = 5.0
"""So often is it looked whether an object in the way has gone."""
_TOLD_DIFFERENCES = 3
_OPTIONAL = {field.alias for field in Status.model_fields.values() if field.default is None}


def reconcile(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """The Plan for one InferenceService. `now` is aware, in UTC. Never raises on what a user wrote.

    A service with a deletion timestamp gets an empty Plan: owner references take its children. One whose spec cannot
    be run keeps the children it has, and its status says what is wrong.
    """
    if "deletionTimestamp" in observed.service["metadata"]:
        return Plan()
    try:
        service = parse(InferenceService, observed.service)
    except SpecError as error:
        blocked = Trouble(Reason.INVALID_SPEC, str(error))
        told = tuple(_tell(observed, None, "", blocked, settings, now))
        return Plan((*told, *demand_events(observed.demand, size_words(observed.service, None))))
    replicas = in_force(observed, service)
    desired = (*children(service, settings, replicas), *group_plan.standing(observed, service, settings))
    writes = tuple(_write(observed, desired))
    refusal = _blocked(observed, desired)
    turn = group_plan.decide(observed, service, settings, now) if service.spec.parallelism.nodes > 1 else None
    told = tuple(_tell(observed, service, revision(service, settings), refusal, settings, now, turn))
    # The record of what is under way comes before the groups that it is about: see turn.py.
    groups = group_plan.actions(observed, service, settings, turn, now) if turn else ()
    autoscaling = service.spec.autoscaling
    wanted = size_words(observed.service, replicas if autoscaling else None)
    # Another size is written down before it is brought about: whoever takes over in between goes on with it.
    rescaled = autoscaling is not None and replicas != held(observed, autoscaling)
    first: tuple[Action, ...] = (*told, *writes) if rescaled else (*writes, *told)
    actions = (*first, *groups, *demand_events(observed.demand, wanted))
    due = [_again(observed, refusal, now), group_plan.again(observed, turn, now) if turn else None]
    return Plan(actions, again_after=min((seconds for seconds in due if seconds is not None), default=None))


def _again(observed: Observed, blocked: Trouble | None, now: datetime) -> float | None:
    """When to look again though no watch tells of a change."""
    due = next_change(observed.pods, now)
    if blocked and blocked.reason == Reason.NAME_CONFLICT:  # a stranger's object is in no watch of ours
        return min(CONFLICT_SECONDS, due or CONFLICT_SECONDS)
    return due


# --- children ----------------------------------------------------------------------------------------


def _write(observed: Observed, desired: tuple[Manifest, ...]) -> Iterator[Action]:
    live = {Ref.of(child): child for child in observed.children}
    for manifest in desired:
        yield from _write_one(observed, live.get(Ref.of(manifest)), manifest)
    wanted = {Ref.of(manifest) for manifest in desired}
    for ref, child in sorted(live.items()):
        if ref not in wanted and _superfluous(observed, child):
            yield Delete(ref, child["metadata"]["uid"], "it is no longer part of the service")


def _superfluous(observed: Observed, child: Manifest) -> bool:
    """Ours, not on its way out, and no group: those come and go by rules of their own."""
    several = pods_a_replica(observed.service) > 1 and is_group(child, observed.service)
    return _ours(observed, child) and "deletionTimestamp" not in child["metadata"] and not several


def _write_one(observed: Observed, child: Manifest | None, manifest: Manifest) -> Iterator[Action]:
    if child is None:
        yield Apply(manifest, None, "it is missing")
        return
    if _conflict(observed, child) or "deletionTimestamp" in child["metadata"]:
        return
    found = list(islice(differences(child, manifest), _TOLD_DIFFERENCES + 1))
    if not found:
        return
    why = f"differs in {', '.join(found[:_TOLD_DIFFERENCES])}{' and more' if len(found) > _TOLD_DIFFERENCES else ''}"
    yield Apply(manifest, child["metadata"]["uid"], why)
    if _applied(child) == _applied(manifest):  # nothing new was wanted, so somebody else changed it
        yield EmitEvent("Warning", Reason.DRIFT_CORRECTED, f"{Ref.of(child)} was changed by somebody else: it {why}")


def _applied(manifest: Manifest) -> str | None:
    annotations = manifest["metadata"].get("annotations") or {}
    return annotations.get(names.ANNOTATION_APPLIED)


def _controller(child: Manifest) -> Manifest | None:
    owners = child["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def _ours(observed: Observed, child: Manifest) -> bool:
    owner = _controller(child)
    return owner is not None and owner["uid"] == observed.service["metadata"].get("uid")


def _conflict(observed: Observed, child: Manifest) -> str:
    """Why an object that bears a name of ours must be left alone, or nothing."""
    owner = _controller(child)
    if owner is None:
        labelled = names.labels(observed.service["metadata"]["name"])
        if covers(child["metadata"].get("labels", {}), labelled):
            return ""  # ours, and somebody took its owner reference away
        return f"{Ref.of(child)} exists already and is not of this service; delete it, or choose another name"
    if _ours(observed, child):
        return ""
    return (
        f"{Ref.of(child)} belongs to {owner['kind']} {owner['name']} (UID {owner['uid']}), and waits for its deletion"
    )


def _blocked(observed: Observed, desired: tuple[Manifest, ...]) -> Trouble | None:
    """Why the children are not as they should be, and will not be by themselves."""
    wanted = {Ref.of(manifest) for manifest in desired}
    for child in observed.children:
        conflict = _conflict(observed, child) if Ref.of(child) in wanted else ""
        if conflict:
            return Trouble(Reason.NAME_CONFLICT, conflict)
    for ref, sentence in sorted(observed.refused.items()):
        return Trouble(Reason.APPLY_REFUSED, f"the API server refuses {ref}: {sentence}")
    return None


# --- status ------------------------------------------------------------------------------------------


def _tell(
    observed: Observed,
    service: InferenceService | None,
    revision: str,
    blocked: Trouble | None,
    settings: Settings,
    now: datetime,
    turn: Turn | None = None,
) -> Iterator[Action]:
    live = observed.service
    facts = gather(observed, service, revision, blocked, now, turn)
    status = status_of(live, facts, settings, now)
    wire = status.to_wire()
    changed = [*islice(differences(live.get("status", {}), wire), _TOLD_DIFFERENCES), *_over(live, wire)]
    if changed:
        metadata, why = live["metadata"], f"differs in {', '.join(changed)}"
        yield PatchStatus(Ref.of(live), metadata.get("uid"), wire, why, metadata.get("resourceVersion"))
        yield from transition_events(live, status)
        yield from rescale_events(facts)
        yield from failure_events(live, turn.failure if turn else None)


def _over(live: Manifest, wire: Manifest) -> list[str]:
    """What the status still tells of and is over: a comparison of what is wanted does not see it."""
    return sorted(_OPTIONAL & (live.get("status", {}).keys() - wire.keys()))
