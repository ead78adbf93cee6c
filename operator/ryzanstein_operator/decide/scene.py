"""What is seen of nodes and of who sits on them: manifests and gateways' views, as the rules about nodes need them.

Pure. A node's own word comes from its conditions, its kubelet's from a probe, the data plane's from the views."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import NodeVerdict, ServiceView
from ryzanstein_worker.contract import LABEL_GROUP, LABEL_POD_INDEX, LABEL_SERVICE, TAINT_UNHEALTHY

Place = tuple[str, str]
"""A namespace, and in it a service or a group."""
KUBELET_PORT: Final = 10250
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
NODE_REASONS: Final = (Reason.NODE_NOT_READY, Reason.NODE_UNREACHABLE, Reason.ACCELERATOR_FAULT)


@dataclass(frozen=True)
class Node:
    """One node. ready: the status of its Ready condition, with its words; address and port: of its kubelet; taint: the
    reason in a taint of ours, or nothing; taints: all that stand."""

    name: str
    version: str
    ready: str
    words: str
    address: str
    port: int
    taint: str
    taints: tuple[Manifest, ...]

    @property
    def well(self) -> bool:
        return self.ready == "True"


@dataclass(frozen=True)
class Seat:
    """One worker pod that has a node. group: of several pods, if it is in one, and leads whether it is the first of
    them. ending: it is on its way out, or has ended. accelerated: it holds a device of the node."""

    service: Place
    name: str
    uid: str
    node: str
    addresses: tuple[str, ...]
    ready: bool
    created: str
    ending: bool
    terminating: bool
    group: str = ""
    leads: bool = True
    accelerated: bool = False


@dataclass(frozen=True)
class Tries:
    """How often pods were deleted from a node, and when last."""

    count: int
    last: datetime


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything at one moment. One equals itself alone, so that what follows from it can be remembered.

    nodes: None where nodes cannot be read. views: of the gateways that have not missed their turn, by service.
    kubelets: whether each one that was asked answered; empty before any was. before: the verdicts so far. taints:
    whether nodes may be tainted.
    """

    nodes: Mapping[str, Node] | None
    seats: tuple[Seat, ...]
    views: Mapping[Place, tuple[ServiceView, ...]]
    before: Mapping[str, NodeVerdict]
    taints: bool
    now: datetime
    kubelets: Mapping[str, bool] = field(default_factory=dict)
    tries: Mapping[str, Tries] = field(default_factory=dict)


def alike(one: str, other: str) -> bool:
    """Whether two sentences differ in their numbers alone: a status must not change with every second that passes."""
    return _NUMBER.sub("#", one) == _NUMBER.sub("#", other)


def node_of(manifest: Manifest) -> Node:
    """A node as the API server shows it."""
    status = manifest.get("status", {})
    ready: Manifest = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    addresses = {one["type"]: one["address"] for one in status.get("addresses") or ()}
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    taints = tuple(manifest.get("spec", {}).get("taints") or ())
    ours: Manifest = next((taint for taint in taints if taint["key"] == TAINT_UNHEALTHY), {})
    return Node(
        name=manifest["metadata"]["name"],
        version=manifest["metadata"]["resourceVersion"],
        # A node that has not said anything yet is starting, not lost.
        ready=ready.get("status", "True"),
        words=str(ready.get("message", "")),
        address=addresses.get("InternalIP", ""),
        port=endpoint.get("Port") or KUBELET_PORT,
        taint=ours.get("value", "") if ours.get("value") in NODE_REASONS else "",
        taints=taints,
    )


def seats(pods: Iterable[Manifest]) -> tuple[Seat, ...]:
    """The pods that have a node."""
    return tuple(seat_of(pod) for pod in pods if pod["spec"].get("nodeName"))


def seat_of(pod: Manifest) -> Seat:
    """A pod that has a node."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    terminating = "deletionTimestamp" in metadata
    return Seat(
        service=(metadata["namespace"], labels.get(LABEL_SERVICE, "")),
        name=metadata["name"],
        uid=metadata["uid"],
        node=pod["spec"]["nodeName"],
        addresses=tuple(one["ip"] for one in status.get("podIPs") or ()) or (status.get("podIP", ""),),
        ready=conditions.get("Ready") == "True",
        created=metadata.get("creationTimestamp", ""),
        ending=terminating or status.get("phase") in ("Failed", "Succeeded"),
        terminating=terminating,
        group=labels.get(LABEL_GROUP, ""),
        leads=LABEL_GROUP not in labels or labels.get(LABEL_POD_INDEX) == "0",
        accelerated=any("/" in name for name in _limits(pod)),
    )


def _limits(pod: Manifest) -> Iterator[str]:
    """The resources that its containers have limits of; those of a device plugin have a slash in their names."""
    for container in pod["spec"].get("containers") or ():
        yield from container.get("resources", {}).get("limits") or ()
