"""Builders of what the rules about nodes look at: nodes, seats of pods on them, gateways' views, whole scenes."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.nodes import judge
from ryzanstein_operator.decide.observed import NodeVerdict, ReplicaView, ServiceView
from ryzanstein_operator.decide.scene import Node, Place, Scene, Seat, node_of
from ryzanstein_worker.contract import TAINT_UNHEALTHY

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHAT = ("team", "chat")


def node_manifest(name: str, *, ready: str = "True", words: str = "", ours: str = "", port: int = 10250) -> Manifest:
    """A node as the API server shows it; `ours` is the value of our taint. Another's taint is always on it."""
    taints = [{"key": "team/gpu", "value": "yes", "effect": "NoSchedule"}]
    taints += [{"key": TAINT_UNHEALTHY, "value": ours, "effect": "NoSchedule"}] if ours else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {"taints": taints},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "message": words}],
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    }


def node(name: str, **more: Any) -> Node:
    return node_of(node_manifest(name, **more))


def seat(pod: str, where: str, **more: Any) -> Seat:
    """A ready pod of `chat`; its address is its name."""
    known = {"service": CHAT, "uid": f"uid-{pod}", "addresses": (pod,), "ready": True, "ending": False}
    known |= {"accelerated": True}
    known |= {"created": "2026-01-02T00:00:00Z", "terminating": False}
    return Seat(name=pod, node=where, **(known | more))


def view(sender: str, sound: int, **rows: str | ReplicaView) -> ServiceView:
    """What one gateway sees; each keyword is a pod's address with its state, seen so for four seconds."""
    told = (row if isinstance(row, ReplicaView) else ReplicaView(pod, row, "words", 4.0) for pod, row in rows.items())
    return ServiceView(sender, sound, tuple(told))


def scene(
    nodes: tuple[Node, ...] | None,
    seats: tuple[Seat, ...],
    *views: ServiceView,
    silent: tuple[str, ...] = (),
    answered: tuple[str, ...] = ("control",),
    service: Place = CHAT,
    before: Mapping[str, NodeVerdict] | None = None,
    taints: bool = False,
    later: float = 0.0,
    **more: Any,
) -> Scene:
    """A scene; `silent` and `answered` name the nodes whose kubelets were asked. `later`: seconds after NOW."""
    kubelets = dict.fromkeys(silent, False) | dict.fromkeys(answered, True)
    return Scene(
        nodes=None if nodes is None else {one.name: one for one in nodes},
        seats=seats,
        views={service: views} if views else {},
        before=before or {},
        taints=taints,
        now=NOW + timedelta(seconds=later),
        kubelets=kubelets,
        **more,
    )


def verdict(name: str, reason: str, message: str = "words", **more: Any) -> NodeVerdict:
    return NodeVerdict(name, reason, message, NOW, **more)


def lost_in(one: Scene) -> set[str]:
    return {name for name, found in judge(one).items() if found.lost}
