"""What to say of one pod and of its node. Pure; the operator's own reading of a pod's troubles, and no other."""

from collections.abc import Mapping
from datetime import datetime

from ryzanstein_kubectl.model.ages import seconds_since
from ryzanstein_kubectl.model.pages import Rank
from ryzanstein_kubectl.model.snapshot import is_ready, leaves
from ryzanstein_kubectl.model.tree import Mood, Pod
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide import pods as decided
from ryzanstein_worker import contract


def pod_of(manifest: Manifest, node_state: str, ranks: tuple[Rank, ...], fault: str, now: datetime) -> Pod:
    """The pod as it is shown. `fault`: what its worker says of its accelerator, empty where all is well."""
    state, mood, detail = _state(manifest, now)
    if fault and mood != "leaving":
        state, mood, detail = "AcceleratorFault", "bad", fault
    return Pod(
        name=manifest["metadata"]["name"],
        state=state,
        mood=mood,
        detail=detail,
        node=manifest["spec"].get("nodeName", ""),
        node_state=node_state,
        age_seconds=seconds_since(manifest["metadata"].get("creationTimestamp", ""), now),
        restarts=restarts(manifest),
        ranks=ranks,
    )


def restarts(manifest: Manifest) -> int:
    """How often containers of the pod were started again."""
    return sum(int(status.get("restartCount", 0)) for status in manifest.get("status", {}).get("containerStatuses", ()))


def _state(manifest: Manifest, now: datetime) -> tuple[str, Mood, str]:
    if leaves(manifest):
        return "Terminating", "leaving", ""
    living = decided.workers([manifest], now)
    if not living:  # Failed or Succeeded: evicted, or its node shut down
        status = manifest.get("status", {})
        return str(status.get("reason") or status.get("phase")), "bad", str(status.get("message", ""))
    (worker,) = living
    if worker.trouble:
        return str(worker.trouble.reason), "bad", worker.trouble.message
    if is_ready(manifest):
        return "Ready", "good", ""
    if not worker.scheduled:
        return "Pending", "waiting", worker.step
    return ("Fetching" if worker.fetched is False else "Starting"), "waiting", worker.step


def node_states(nodes: Mapping[str, Manifest], services: tuple[Manifest, ...]) -> dict[str, str]:
    """Each node that cannot be counted on and why: by the node itself, and by what the operator has found."""
    found = {name: state for name, node in nodes.items() if (state := _node_state(node))}
    for service in services:
        for entry in service.get("status", {}).get("unhealthyNodes") or ():
            found[entry["name"]] = entry["reason"]
    return found


def _node_state(node: Manifest) -> str:
    conditions = {item["type"]: item["status"] for item in node.get("status", {}).get("conditions") or ()}
    taints = {taint["key"]: taint for taint in node["spec"].get("taints") or ()}
    if conditions.get("Ready", "True") != "True":
        return "NodeNotReady"
    if contract.TAINT_UNHEALTHY in taints:
        return str(taints[contract.TAINT_UNHEALTHY].get("value") or "Unhealthy")
    return "Cordoned" if node["spec"].get("unschedulable") else ""
