"""What is to be done about the groups of a service, as actions. Pure; the choices are made in `turn.py`."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide import operation, turn
from ryzanstein_operator.decide.groups import group_name, groups_of, strays
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import Action, Apply, CreateKey, Delete
from ryzanstein_operator.decide.rollout import Wish
from ryzanstein_operator.decide.size import in_force
from ryzanstein_operator.decide.times import moment
from ryzanstein_operator.decide.turn import Turn
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.children import revision
from ryzanstein_operator.desired.groups import key_secret, stateful_set
from ryzanstein_operator.settings import Settings

STRAY = timedelta(seconds=60)
"""Before a pod without its StatefulSet is called one: the two are told of by watches of their own."""
KEY_MISSED = timedelta(seconds=10)
"""A pod that has a node and still no container may be waiting for the group's key."""


def decide(observed: Observed, service: InferenceService, settings: Settings, now: datetime) -> Turn:
    """The choices of one visit."""
    wish = Wish.of(service, revision(service, settings), in_force(observed, service))
    groups = groups_of(observed)
    taken = {group.name for group in groups} | {group_name(pod) for pod in observed.pods}
    return turn.take(wish, groups, frozenset(taken), operation.read(observed.service), now)


def actions(
    observed: Observed, service: InferenceService, settings: Settings, chosen: Turn, now: datetime
) -> Iterator[Action]:
    """First what goes, then what comes; the key before the pods that wait for it."""
    namespace = service.metadata.namespace
    for removal in chosen.remove:
        ref = Ref(*names.GROUP_KIND, namespace, removal.group.name)
        # In the foreground: the group is seen to be on its way out until its last pod is gone.
        yield Delete(ref, removal.group.uid, removal.why, foreground=True)
    for pod in strays(observed):
        if "deletionTimestamp" not in pod["metadata"] and _made(pod) + STRAY <= now:
            yield Delete(Ref.of(pod), pod["metadata"]["uid"], f"its group {group_name(pod)} is gone")
    if chosen.create or any(_misses_key(pod, now) for pod in observed.pods):
        yield CreateKey(key_secret(service), "the pods of a group know one another by it")
    key = Ref.of(key_secret(service))
    why = f"{in_force(observed, service)} replicas are wanted"
    for index in chosen.create:
        yield Apply(stateful_set(service, settings, index), None, why, key)


def standing(observed: Observed, service: InferenceService, settings: Settings) -> tuple[Manifest, ...]:
    """The groups of the latest revision that are there, as they should be: so that what was changed is put back."""
    latest, name = revision(service, settings), service.metadata.name
    found = []
    for group in groups_of(observed):
        index = group.name.rpartition("-")[2]
        mine = group.leaving is None and group.revision == latest and index.isdecimal()
        if mine and names.group(name, latest, int(index)) == group.name:
            found.append(stateful_set(service, settings, int(index)))
    return tuple(found)


def again(observed: Observed, chosen: Turn, now: datetime) -> float | None:
    """In how many seconds time alone may change what is to be done."""
    due = [_made(pod) + STRAY for pod in strays(observed) if "deletionTimestamp" not in pod["metadata"]]
    due += [since + KEY_MISSED for pod in observed.pods if (since := _without_container_since(pod))]
    found = [moment for moment in due if moment > now] + ([chosen.again_at] if chosen.again_at else [])
    return max(0.0, (min(found) - now).total_seconds()) if found else None


def _misses_key(pod: Manifest, now: datetime) -> bool:
    since = _without_container_since(pod)
    return since is not None and since + KEY_MISSED <= now


def _without_container_since(pod: Manifest) -> datetime | None:
    status = pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    begun = any("waiting" not in one.get("state", {}) or one.get("lastState") for one in containers)
    begun = begun or conditions.get("PodReadyToStartContainers", {}).get("status") == "True"
    scheduled = conditions.get("PodScheduled", {})
    since = scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None
    leaving = "deletionTimestamp" in pod["metadata"]
    return moment(since) if since and group_name(pod) and not begun and not leaving else None


def _made(pod: Manifest) -> datetime:
    return moment(pod["metadata"]["creationTimestamp"])
