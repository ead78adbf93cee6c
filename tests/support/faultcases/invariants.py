"""What must hold in every recorded state: a replay of a namespace's history, state by state."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from faultcases.recorder import History, Ident, Manifest, State
from ryzanstein_worker import contract

OPERATOR = contract.FIELD_MANAGER
REVISION = f"{contract.API_GROUP}/revision"
READY_SECONDS = 10.0
"""So long after the last ready pod went may a status that says Ready be written: it was decided before, and a call that
was refused for the moment is tried again some seconds later."""
Objects = Mapping[Ident, Manifest]


def violations(history: History) -> list[str]:
    """One line for each invariant that a state breaks."""
    replay = _Replay(dict(history.first))
    return [f"at version {state.version}: {words}" for state in history.ordered() for words in replay.take(state)]


class _Replay:
    """All objects at one version, and what must be remembered of earlier ones."""

    def __init__(self, objects: dict[Ident, Manifest]) -> None:
        self.objects = objects
        self.uids: dict[str, str] = {}  # service: its UID, also after its end
        self.ready_at: dict[str, float] = {}  # service: when it last had a ready pod
        self.most: dict[str, int] = {}  # service: the most replicas that were asked for
        self.generations: dict[str, int] = {}  # UID of a service: its highest observedGeneration
        for kind, name in objects:
            if kind == "InferenceService":
                self.uids[name] = objects[kind, name]["metadata"]["uid"]

    def take(self, state: State) -> Iterator[str]:
        before = self.objects.get(state.ident)
        if state.event == "DELETED":
            self.objects.pop(state.ident, None)
            return
        self.objects[state.ident] = state.manifest
        if state.kind == "InferenceService":
            name, spec = state.ident[1], state.manifest["spec"]
            self.uids[name] = state.manifest["metadata"]["uid"]
            self.most[name] = max(self.most.get(name, 0), spec.get("replicas", 1))
        for name in self.uids:
            if any(_is_ready(pod) for pod in pods_of(self.objects, name)):
                self.ready_at[name] = state.at
        for check in _CHECKS:
            yield from check(self, before, state)


def _owner_is_right(replay: _Replay, _: Manifest | None, state: State) -> Iterator[str]:
    service = _service_of(state.manifest)
    if not service or not _written_by_operator(state.manifest) or state.kind == "InferenceService":
        return
    owners = state.manifest["metadata"].get("ownerReferences", ())
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) != 1:
        yield f"{' '.join(state.ident)} has {len(controllers)} controllers"
    elif state.event == "ADDED" and controllers[0]["uid"] != replay.uids.get(service):
        yield f"{' '.join(state.ident)} was made for UID {controllers[0]['uid']}, not {replay.uids.get(service)}"


def _one_controller_a_pod(replay: _Replay, before: Manifest | None, state: State) -> Iterator[str]:
    if before is None or before["metadata"]["uid"] != state.manifest["metadata"]["uid"]:
        return
    old, new = (_controller_uid(manifest) for manifest in (before, state.manifest))
    if old and new and old != new:
        yield f"{' '.join(state.ident)} went from controller {old} to {new}"


def _foreign_is_untouched(replay: _Replay, _: Manifest | None, state: State) -> Iterator[str]:
    if state.ident[1].startswith("foreign") and _written_by_operator(state.manifest):
        yield f"{' '.join(state.ident)} is foreign and was written"


def _no_replica_too_many(replay: _Replay, _: Manifest | None, state: State) -> Iterator[str]:
    """Counted as Kubernetes counts a surge, by what ReplicaSets are to hold, and for groups by what stands."""
    service = _service_of(state.manifest)
    owner = replay.objects.get(("InferenceService", service))
    if state.kind not in ("ReplicaSet", "StatefulSet") or owner is None or _controls_nothing(state.manifest, replay):
        return
    mates = [
        one
        for (kind, _), one in replay.objects.items()
        if kind == state.kind and _service_of(one) == service and "deletionTimestamp" not in one["metadata"]
    ]
    count = len(mates) if state.kind == "StatefulSet" else sum(one["spec"]["replicas"] for one in mates)
    deployment = replay.objects.get(("Deployment", service), {"spec": {}})["spec"]
    wanted = max(owner["spec"].get("replicas", 1), deployment.get("replicas", 0), replay.most.get(service, 0))
    most = wanted + owner["spec"].get("disruption", {}).get("maxSurge", 1)
    if count > most:
        yield f"{service} has {count} replicas, more than {most}"


def _controls_nothing(manifest: Manifest, replay: _Replay) -> bool:
    """Left over from a service of the same name that is gone: the garbage collector's, not the operator's."""
    owner = _controller_uid(manifest)
    return owner not in {one["metadata"]["uid"] for one in replay.objects.values()}


def _ready_is_true(replay: _Replay, before: Manifest | None, state: State) -> Iterator[str]:
    if state.kind != "InferenceService":
        return
    became = _condition(state.manifest, "Ready") == "True" and (before is None or _condition(before, "Ready") != "True")
    name = state.ident[1]
    if became and state.at - replay.ready_at.get(name, float("-inf")) > READY_SECONDS:
        yield f"{name} became Ready without a ready pod"


def _generation_grows(replay: _Replay, _: Manifest | None, state: State) -> Iterator[str]:
    if state.kind != "InferenceService":
        return
    uid = state.manifest["metadata"]["uid"]
    observed = state.manifest.get("status", {}).get("observedGeneration", 0)
    if observed < replay.generations.get(uid, 0):
        yield f"{state.ident[1]}: observedGeneration went back to {observed} from {replay.generations[uid]}"
    if observed > state.manifest["metadata"]["generation"]:
        yield f"{state.ident[1]}: observedGeneration {observed} is ahead of its generation"
    replay.generations[uid] = max(observed, replay.generations.get(uid, 0))


def _group_is_of_one_revision(replay: _Replay, _: Manifest | None, state: State) -> Iterator[str]:
    group = state.manifest["metadata"].get("labels", {}).get(contract.LABEL_GROUP)
    if state.kind != "Pod" or not group:
        return
    mates = [
        pod
        for (kind, _), pod in replay.objects.items()
        if kind == "Pod" and pod["metadata"].get("labels", {}).get(contract.LABEL_GROUP) == group
    ]
    revisions = {pod["metadata"]["labels"].get(REVISION) for pod in mates}
    if len(revisions) > 1:
        yield f"the pods of group {group} are of revisions {revisions}"


_CHECKS: tuple[Callable[[_Replay, Manifest | None, State], Iterator[str]], ...] = (
    _owner_is_right,
    _one_controller_a_pod,
    _foreign_is_untouched,
    _no_replica_too_many,
    _ready_is_true,
    _generation_grows,
    _group_is_of_one_revision,
)


# --- reading manifests -----------------------------------------------------------------------------------


def pods_of(objects: Objects, service: str) -> list[Manifest]:
    """The worker pods of a service."""
    return [pod for (kind, _), pod in objects.items() if kind == "Pod" and _service_of(pod) == service]


def _service_of(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get(contract.LABEL_SERVICE, ""))


def _written_by_operator(manifest: Manifest) -> bool:
    return any(entry.get("manager") == OPERATOR for entry in manifest["metadata"].get("managedFields", ()))


def _controller_uid(manifest: Manifest) -> str:
    owners: list[dict[str, Any]] = manifest["metadata"].get("ownerReferences", [])
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _is_ready(pod: Manifest) -> bool:
    return _condition(pod, "Ready") == "True"


def _condition(manifest: Manifest, kind: str) -> str:
    conditions = manifest.get("status", {}).get("conditions", ())
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")
