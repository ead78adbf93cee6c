"""Builders of what the operator sees of groups: their StatefulSets as they live, and their pods."""

import copy
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from operator_builders import NOW, SETTINGS, endpoints, parsed, service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.desired.children import children, revision
from ryzanstein_operator.desired.groups import stateful_set

WORDS = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def grouped(name: str = "chat", *, parallelism: Mapping[str, object] | None = None, **spec: Any) -> Manifest:
    """A live InferenceService of the demo model whose replicas are groups of two pods."""
    return service(name, parallelism={"tensor": 2, "nodes": 2, **(parallelism or {})}, **spec)


def group_set(live: Manifest, index: int = 0, *, made: datetime = NOW, leaving: datetime | None = None) -> Manifest:
    """The StatefulSet of one group of the latest revision, as it stands after it was applied."""
    found = copy.deepcopy(stateful_set(parsed(live), SETTINGS, index))
    uid = f"uid-{found['metadata']['name']}"
    found["metadata"] |= {"uid": uid, "creationTimestamp": stamp(made), "generation": 1, "resourceVersion": "7"}
    if leaving:
        found["metadata"]["deletionTimestamp"] = stamp(leaving)
    return found


def group_pod(
    group: Manifest,
    rank: int,
    *,
    node: str = "",
    ready: bool = False,
    words: str = WORDS,
    made: datetime = NOW,
    changed: datetime | None = None,
    due: datetime | None = None,
    **status: Any,
) -> Manifest:
    """A pod of a group. Without a node it bears the scheduler's words; due: when it is to be gone, if it is leaving."""
    template, name = group["spec"]["template"], f"{group['metadata']['name']}-{rank}"
    placed = {"type": "PodScheduled", "status": "True" if node else "False", "lastTransitionTime": stamp(made)}
    if not node:
        placed |= {"reason": "Unschedulable", "message": words}
    readiness = {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp(changed or made)}
    owner = {"kind": "StatefulSet", "name": group["metadata"]["name"], "uid": group["metadata"]["uid"]}
    metadata = {
        "name": name,
        "namespace": group["metadata"]["namespace"],
        "uid": f"uid-{name}",
        "labels": {**template["metadata"]["labels"], "apps.kubernetes.io/pod-index": str(rank)},
        "creationTimestamp": stamp(made),
        "ownerReferences": [{**owner, "controller": True}],
    }
    if due:
        metadata["deletionTimestamp"] = stamp(due)
    running = {"name": "worker", "ready": ready, "state": {"running": {"startedAt": stamp(made)}}, "restartCount": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**copy.deepcopy(template["spec"]), "nodeName": node},
        "status": {
            "phase": "Running" if node else "Pending",
            "conditions": [placed, *([readiness] if node else [])],
            "containerStatuses": [running] if node else [],
            **status,
        },
    }


def group_pods(group: Manifest, *nodes: str, ready: bool = True, made: datetime = NOW) -> tuple[Manifest, ...]:
    """All pods of a group, one on each of the nodes; an empty name is a pod without one."""
    return tuple(group_pod(group, rank, node=node, ready=ready, made=made) for rank, node in enumerate(nodes))


def fixed(live: Manifest) -> tuple[Manifest, ...]:
    """What the service has one of, as it stands after it was applied."""
    found = [copy.deepcopy(child) for child in children(parsed(live), SETTINGS, 1)]
    for child in found:
        uid = f"uid-{child['kind']}-{child['metadata']['name']}"
        child["metadata"] |= {"uid": uid, "generation": 1, "resourceVersion": "7", "creationTimestamp": stamp(NOW)}
    return tuple(found)


def seen(live: Manifest, groups: Iterable[Manifest] = (), pods: Iterable[Manifest] = (), **more: Any) -> Observed:
    """A service of groups whose other children stand as they should; leaders that are ready are endpoints."""
    pods = tuple(pods)
    leaders = [
        pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0"
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])
    ]  # fmt: skip
    return Observed(
        live,
        children=(*fixed(live), *groups),
        pods=pods,
        endpoint_slices=(endpoints(live, *leaders),),
        services=(live,),
        **more,
    )


def revision_of_groups(live: Manifest) -> str:
    return revision(parsed(live), SETTINGS)


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)
