"""Where a pod is on its way up, and which pods do not go, in words that stay the same while that lasts. Pure.

Reads pod manifests and the time that it is given. Words hold times, never durations: those would be another message
at each visit.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.times import moment

SETUP_SECONDS = 60
"""Volumes are mounted and the network is set up within seconds; what takes longer will hardly come by itself."""
LEAVING_SECONDS = 30
"""Beyond a pod's own grace period: the kubelet kills at its end, and reports."""

_PLAIN = ("cpu", "memory", "ephemeral-storage")


def step(pod: Manifest, conditions: dict[str, Manifest]) -> str:
    """What a pod that is not ready waits for or does: a phrase that follows its name."""
    if conditions.get("PodScheduled", {}).get("status") != "True":
        return "waits for a node"
    status = pod.get("status", {})
    fetch, worker = (_state(status.get(f"{kind}Statuses")) for kind in ("initContainer", "container"))
    if started := worker.get("running", {}).get("startedAt"):
        if since := fallen_since(pod, conditions):
            return f"runs, but has not been ready since {since}"
        return f"has been loading the model since {started}"
    if started := fetch.get("running", {}).get("startedAt"):
        return f"has been downloading the model since {started}"
    if _set_up(conditions) is None:
        return "waits for its volumes and its image"
    since = conditions["PodReadyToStartContainers"].get("lastTransitionTime", "its start")
    waits_for = "image" if _set_up(conditions) else "volumes and network"
    return f"has been waiting for its {waits_for} since {since}"


def fallen_since(pod: Manifest, conditions: dict[str, Manifest]) -> str:
    """Since when a worker that was ready in this life of its container is not any more; else nothing."""
    started = _state(pod.get("status", {}).get("containerStatuses")).get("running", {}).get("startedAt")
    ready = conditions.get("Ready", {})
    since = str(ready.get("lastTransitionTime", ""))
    return since if started and ready.get("status") == "False" and since > started else ""


def setup_words(pod: Manifest, conditions: dict[str, Manifest], now: datetime) -> str:
    """Why a pod that has a node has no container yet, once that has lasted for SETUP_SECONDS; else nothing.

    The pod itself tells only that much; the kubelet's own words are in the pod's Events.
    """
    since = conditions.get("PodScheduled", {}).get("lastTransitionTime")
    if _set_up(conditions) is not False or not since or "running" in _any_state(pod) or now < setup_due(since):
        return ""
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
    return f"{_volumes(pod)} or the network not set up on node {node} since {since}; see kubectl describe pod {name}"


def leftover_words(pods: Iterable[Manifest], now: datetime) -> tuple[str, ...]:
    """A sentence for each pod that should have been gone for LEAVING_SECONDS and still holds what it was given."""
    left = [pod for pod in pods if _holds(pod) and now >= leaving_due(pod)]
    return tuple(_leftover(pod) for pod in sorted(left, key=lambda pod: str(pod["metadata"]["name"])))


def next_change(pods: Iterable[Manifest], now: datetime) -> float | None:
    """In how many seconds time alone will change these words; None where it will not."""
    due = [when for pod in pods for when in _moments(pod) if when > now]
    return (min(due) - now).total_seconds() if due else None


def _moments(pod: Manifest) -> Iterable[datetime]:
    if _holds(pod):
        yield leaving_due(pod)
        return
    conditions = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions") or ()}
    since = conditions.get("PodScheduled", {}).get("lastTransitionTime")
    if since and _set_up(conditions) is False:
        yield setup_due(since)


def setup_due(since: str) -> datetime:
    return moment(since) + timedelta(seconds=SETUP_SECONDS)


def leaving_due(pod: Manifest) -> datetime:
    """`deletionTimestamp` is when the grace period ends, not when it was asked for."""
    return moment(pod["metadata"]["deletionTimestamp"]) + timedelta(seconds=LEAVING_SECONDS)


def _holds(pod: Manifest) -> bool:
    """On its way out, and not known to have ended."""
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return "deletionTimestamp" in pod["metadata"] and bool(pod["spec"].get("nodeName")) and not ended


def _leftover(pod: Manifest) -> str:
    metadata, node = pod["metadata"], pod["spec"]["nodeName"]
    finalizers = ", ".join(metadata.get("finalizers") or ())
    kept = f"finalizers keep it ({finalizers})" if finalizers else f"node {node} does not confirm its end"
    devices = _devices(pod)
    held = f" and holds {devices}" if devices else ""
    return f"{metadata['name']} should have been gone since {metadata['deletionTimestamp']}{held}: {kept}"


def _devices(pod: Manifest) -> str:
    asked = [
        limits for spec in pod["spec"].get("containers", ()) if (limits := spec.get("resources", {}).get("limits"))
    ]
    found = {name: count for limits in asked for name, count in limits.items() if name not in _PLAIN}
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


def _volumes(pod: Manifest) -> str:
    volumes = pod["spec"].get("volumes", ())
    named = [
        f"volume claim {volume['persistentVolumeClaim']['claimName']}"
        for volume in volumes
        if "persistentVolumeClaim" in volume
    ]
    named += [f"Secret {volume['secret']['secretName']}" for volume in volumes if "secret" in volume]
    return ", ".join(named) or "its volumes"


def _set_up(conditions: dict[str, Manifest]) -> bool | None:
    """Are volumes mounted and is the network there? None where the kubelet does not say (before Kubernetes 1.29)."""
    said = conditions.get("PodReadyToStartContainers", {}).get("status")
    return None if said is None else said == "True"


def _any_state(pod: Manifest) -> Manifest:
    status = pod.get("status", {})
    return _state(status.get("initContainerStatuses")) | _state(status.get("containerStatuses"))


def _state(statuses: list[Manifest] | None) -> Manifest:
    state: Manifest = (statuses or [{}])[0].get("state") or {}
    return state
