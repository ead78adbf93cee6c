"""Builders of what the operator sees: services, pods, endpoints, live children. Each gives a manifest of its own."""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest, parse
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.plan import PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import reconcile
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.settings import Settings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(
    namespace="release",
    worker_image="ryzanstein/worker:dev",
    gateway_url="http://gateway.release",
    gateway_labels={"app.kubernetes.io/component": "gateway"},
)


def service(
    name: str = "chat", *, namespace: str = "team", created: str = "2026-01-01T00:00:00Z", **spec: Any
) -> Manifest:
    """A live InferenceService of the demo model; keywords are fields of the spec."""
    return {
        "apiVersion": "ryzanstein.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "generation": 3,
            "creationTimestamp": created,
        },
        "spec": {"model": {"uri": "demo://"}, **copy.deepcopy(spec)},
    }


def parsed(live: Manifest) -> InferenceService:
    return parse(InferenceService, live)


def desired(live: Manifest, settings: Settings = SETTINGS) -> dict[str, Manifest]:
    """The children of a service by kind."""
    return {child["kind"]: child for child in children(parsed(live), settings, parsed(live).spec.replicas)}


def live_children(live: Manifest, replicas: int | None = None) -> tuple[Manifest, ...]:
    """The children as they stand after they were applied, for as many replicas as the spec says or for others.

    With UIDs, and a Deployment that has rolled out.
    """
    size = parsed(live).spec.replicas if replicas is None else replicas
    found = [copy.deepcopy(child) for child in children(parsed(live), SETTINGS, size)]
    for child in found:
        child["metadata"] |= {"uid": f"uid-{child['kind']}", "generation": 1, "resourceVersion": "7"}
        if child["kind"] == "Deployment":
            child["status"] = {"observedGeneration": 1, "conditions": [_rolled_out()]}
    return tuple(found)


def _rolled_out() -> Manifest:
    return {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}


def deployment_says(found: Iterable[Manifest], *conditions: Manifest) -> tuple[Manifest, ...]:
    """The children with other conditions on their Deployment."""
    changed = copy.deepcopy(tuple(found))
    for child in changed:
        if child["kind"] == "Deployment":
            child["status"]["conditions"] = list(conditions)
    return changed


def revision_of(live: Manifest) -> str:
    labels = desired(live)["Deployment"]["spec"]["template"]["metadata"]["labels"]
    return str(labels[names.LABEL_REVISION])


def pod(live: Manifest, name: str = "chat-a", *, node: str = "node-1", revision: str = "", **status: Any) -> Manifest:
    """A pod of the latest revision (or another) that has a node and is not ready; keywords are fields of its status."""
    template = desired(live)["Deployment"]["spec"]["template"]
    labels = {**template["metadata"]["labels"], names.LABEL_REVISION: revision or revision_of(live)}
    placed = [{"type": "PodScheduled", "status": "True"}] if node else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": live["metadata"]["namespace"], "uid": f"uid-{name}", "labels": labels},
        "spec": {**copy.deepcopy(template["spec"]), "nodeName": node},
        "status": {"phase": "Running", "conditions": placed, **status},
    }


def ready_pod(live: Manifest, name: str = "chat-a", *, node: str = "node-1", revision: str = "") -> Manifest:
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
    running = {"name": "worker", "ready": True, "state": {"running": {}}, "restartCount": 0}
    return pod(live, name, node=node, revision=revision, conditions=conditions, containerStatuses=[running])


def unscheduled_pod(live: Manifest, words: str, name: str = "chat-a") -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    return pod(live, name, node="", phase="Pending", conditions=[condition])


def container(name: str = "worker", *, waiting: Manifest | None = None, ended: Manifest | None = None) -> Manifest:
    """A container's status: waiting and, if `ended` is given, after an earlier end; else ended right now."""
    if waiting is None:
        return {"name": name, "image": "image:1", "ready": False, "state": {"terminated": ended}}
    last = {"terminated": ended} if ended else {}
    return {"name": name, "image": "image:1", "ready": False, "state": {"waiting": waiting}, "lastState": last}


def broken_pod(live: Manifest, status: Manifest, name: str = "chat-a", *, revision: str = "") -> Manifest:
    """A pod with one container's status; that of `fetch` is an init container's."""
    kind = "initContainerStatuses" if status["name"] == "fetch" else "containerStatuses"
    broken = pod(live, name, revision=revision)
    broken["status"][kind] = [status]
    return broken


def endpoints(live: Manifest, *pods: str, ready: bool = True) -> Manifest:
    """The EndpointSlice of a service's workers."""
    name = live["metadata"]["name"]
    entries = [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod_name}}
        for pod_name in pods
    ]
    metadata = {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": f"{name}-workers"}}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "endpoints": entries}


def settled(live: Manifest, *pods: Manifest) -> Observed:
    """A service whose children stand as they should, with these pods; those that are ready are endpoints."""
    ready = [
        item["metadata"]["name"] for item in pods if {"type": "Ready", "status": "True"} in item["status"]["conditions"]
    ]
    slices = (endpoints(live, *ready),)
    return Observed(live, children=live_children(live), pods=pods, endpoint_slices=slices, services=(live,))


def status_in(plan: Plan) -> Manifest:
    """The status that a Plan sets."""
    (patch,) = [action for action in plan.actions if isinstance(action, PatchStatus)]
    return patch.status


def conditions_in(plan: Plan) -> dict[str, Manifest]:
    return {condition["type"]: condition for condition in status_in(plan)["conditions"]}


def conditions_of(observed: Observed) -> dict[str, Manifest]:
    """The conditions that a visit would set."""
    return conditions_in(reconcile(observed, SETTINGS, NOW))
