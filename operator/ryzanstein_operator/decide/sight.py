"""What gateways and nodes say of a service's replicas: the troubles that no pod's own status shows. Pure.

A pod on a node that died is Running and Ready to Kubernetes for the better part of a minute.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ryzanstein_operator.api.inference_service import UnhealthyNode
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import NodeVerdict, Observed, ReplicaView, ServiceView
from ryzanstein_operator.decide.pods import Trouble, Worker, worst
from ryzanstein_operator.decide.scene import Seat, seats
from ryzanstein_operator.decide.times import text_of

MOST_NODES: Final = 100
_STATES: Final = {
    "Unreachable": (Reason.REPLICA_UNREACHABLE, "gateways do not reach it"),
    "Refused": (Reason.REPLICA_UNREACHABLE, "gateways are refused by it"),
    "NotReady": (Reason.REPLICA_LAGGING, "gateways find it not ready"),
    "Lagging": (Reason.REPLICA_LAGGING, "gateways find it lagging"),
}
"""The gravest first. A replica that drains is none of them."""


def answering(views: tuple[ServiceView, ...]) -> int | None:
    """How many replicas most gateways would send requests to: at least half of them see as many. None without views."""
    counts = sorted((view.sound for view in views), reverse=True)
    return counts[(len(counts) - 1) // 2] if counts else None


def beheld(workers: tuple[Worker, ...], observed: Observed) -> tuple[Worker, ...]:
    """The workers, with what gateways and nodes say of them where that is worse than what they say themselves."""
    troubles = _troubles(observed) if observed.views or observed.nodes else {}
    return tuple(
        replace(worker, trouble=worst(filter(None, (worker.trouble, troubles.get(worker.name))))) for worker in workers
    )


def node_trouble(observed: Observed) -> Trouble | None:
    """What is the matter with the first by name of the nodes that replicas were taken from."""
    for name, verdict in sorted((observed.nodes or {}).items()):
        if verdict.shunned and verdict.well_since is None and _left(observed.pods, name):
            return _of_node(verdict)
    return None


def unhealthy_nodes(observed: Observed) -> tuple[UnhealthyNode, ...]:
    """Those that the service has pods on, or had when they became so. As long as nobody has looked, what was told."""
    standing = observed.service.get("status", {}).get("unhealthyNodes") or ()
    if observed.nodes is None:
        return tuple(UnhealthyNode.model_validate(one) for one in standing)
    concerned = {one["name"] for one in standing} | {pod["spec"].get("nodeName") for pod in observed.pods}
    found = [verdict for name, verdict in sorted(observed.nodes.items()) if name in concerned]
    return tuple(_told(verdict) for verdict in found[:MOST_NODES])


def _told(verdict: NodeVerdict) -> UnhealthyNode:
    since = text_of(verdict.since)
    return UnhealthyNode(name=verdict.node, reason=verdict.reason, message=verdict.message[:1024], since=since)


def _left(pods: tuple[Manifest, ...], node: str) -> bool:
    return any(pod["spec"].get("nodeName") == node and "deletionTimestamp" in pod["metadata"] for pod in pods)


def _troubles(observed: Observed) -> Mapping[str, Trouble]:
    found = {}
    for seat in seats(observed.pods):
        trouble = _on_node(seat, observed) or _in_views(seat, observed.views)
        if trouble is not None:
            found[seat.name] = trouble
    return found


def _on_node(seat: Seat, observed: Observed) -> Trouble | None:
    verdict = (observed.nodes or {}).get(seat.node)
    faulty = any(row.accelerator_fault for row in _rows(seat, observed.views))
    if verdict is None or not (verdict.lost or (faulty and verdict.reason == Reason.ACCELERATOR_FAULT)):
        return None
    return _of_node(verdict)


def _of_node(verdict: NodeVerdict) -> Trouble:
    return Trouble(Reason(verdict.reason), f"node {verdict.node}: {verdict.message}")


def _in_views(seat: Seat, views: tuple[ServiceView, ...]) -> Trouble | None:
    rows = _rows(seat, views)
    fault = next((row.accelerator_fault for row in rows if row.accelerator_fault), "")
    if fault:
        return Trouble(Reason.ACCELERATOR_FAULT, fault)
    told = [row for row in rows if row.state in _STATES]
    if not told or 2 * len(told) < len(views):
        return None
    gravest = min(told, key=lambda row: list(_STATES).index(row.state))
    reason, words = _STATES[gravest.state]
    return Trouble(reason, f"{words}: {gravest.reason}" if gravest.reason else words)


def _rows(seat: Seat, views: tuple[ServiceView, ...]) -> list[ReplicaView]:
    return [row for view in views for row in view.replicas if row.address in seat.addresses]
