"""The three writes of a drain: cordon a node, evict a pod, and nothing else."""

from dataclasses import dataclass
from typing import Literal

from ryzanstein_kubectl.cluster.look import Scope, items
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import MERGE, ApiError
from ryzanstein_operator.cluster.resources import NODES, PODS
from ryzanstein_worker import contract


@dataclass(frozen=True)
class Eviction:
    """What the API server said. again_seconds: when to ask once more after `refused`."""

    outcome: Literal["evicted", "refused", "gone"]
    words: str = ""
    again_seconds: float = 0.0


async def evict(session: Session, pod: Manifest) -> Eviction:
    """Asks once that the pod may go, by its UID. Raises ApiError for what is neither yes nor not yet."""
    metadata = pod["metadata"]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "deleteOptions": {"preconditions": {"uid": metadata["uid"]}},
    }
    path = f"{PODS.path(metadata['namespace'], metadata['name'])}/eviction"
    try:
        await session.call("POST", path, body, attempts=1)
    except ApiError as error:
        if error.status == 429:
            return Eviction("refused", error.sentence, error.retry_after)
        if error.status in (404, 409):
            return Eviction("gone", error.sentence)
        if error.transient and error.status != 500:
            return Eviction("refused", error.sentence, error.retry_after)
        raise
    return Eviction("evicted")


async def cordon(session: Session, node: str) -> bool:
    """No new pod is put on the node from now on. False if that was so already. Raises CommandError, ApiError."""
    path = NODES.path(name=node)
    try:
        live = await session.call("GET", path)
    except ApiError as error:
        if error.status == 404:
            raise CommandError(f"There is no node {node}.") from error
        raise
    if live["spec"].get("unschedulable"):
        return False
    await session.call("PATCH", path, {"spec": {"unschedulable": True}}, content_type=MERGE)
    return True


async def pods_on(session: Session, node: str, namespace: str) -> list[Manifest]:
    """Our worker pods on a node, of one namespace or (empty) of all."""
    return await items(session, PODS, namespace, Scope(namespace).worker_selector, f"spec.nodeName={node}")


async def pod_named(session: Session, namespace: str, name: str) -> Manifest:
    """One pod, if it is a worker's. Raises CommandError."""
    try:
        pod = await session.call("GET", PODS.path(namespace, name))
    except ApiError as error:
        if error.status == 404:
            raise CommandError(f"There is no pod {name} in namespace {namespace}.") from error
        raise
    if contract.LABEL_SERVICE not in (pod["metadata"].get("labels") or {}):
        raise CommandError(f"The pod {name} belongs to no InferenceService; use kubectl drain or kubectl delete.")
    return pod
