"""Decides by NetworkPolicies whether one pod may connect to another, as a cluster that enforces them would.

Pure: manifests in, a verdict out. Knows the networking.k8s.io/v1 rules (pods that no policy selects are open, policies
add up, `from`/`to` absent means anybody, `ports` absent means every port); knows nothing of Ryzanstein. A `policyTypes`
that is left out is refused rather than guessed.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod (namespace set) or an address outside the cluster (namespace empty)."""

    ip: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    named_ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_pod(self) -> bool:
        return bool(self.namespace)


@dataclass(frozen=True)
class Network:
    """Every policy of the cluster, and the labels of its namespaces."""

    policies: tuple[Manifest, ...]
    namespaces: Mapping[str, Mapping[str, str]]

    def allows(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        """Whether `source` may open a connection to `port` of `target`: its egress and the target's ingress agree."""
        leaves = self._one_way("Egress", source, target, target, port, protocol)
        return leaves and self._one_way("Ingress", target, source, target, port, protocol)

    def _one_way(self, way: str, subject: Peer, other: Peer, target: Peer, port: int, protocol: str) -> bool:
        """The verdict of the policies on `subject` for traffic of this way with `other`."""
        selecting = [policy for policy in self.policies if self._selects(policy, subject, way)]
        if not selecting:
            return True
        return any(
            _port_matches(rule.get("ports"), target, port, protocol) and self._peer_matches(rule, way, policy, other)
            for policy in selecting
            for rule in policy["spec"].get(way.lower()) or ()
        )

    def _selects(self, policy: Manifest, subject: Peer, way: str) -> bool:
        spec = policy["spec"]
        if not spec.get("policyTypes"):
            raise ValueError(f"NetworkPolicy {policy['metadata']['name']} does not say its policyTypes")
        same_namespace = subject.is_pod and policy["metadata"]["namespace"] == subject.namespace
        return way in spec["policyTypes"] and same_namespace and selects(spec["podSelector"], subject.labels)

    def _peer_matches(self, rule: Manifest, way: str, policy: Manifest, other: Peer) -> bool:
        peers = rule.get("from" if way == "Ingress" else "to")
        return not peers or any(self._one_peer(peer, policy["metadata"]["namespace"], other) for peer in peers)

    def _one_peer(self, peer: Manifest, home: str, other: Peer) -> bool:
        if "ipBlock" in peer:
            return _in_block(peer["ipBlock"], other.ip)
        if not other.is_pod:
            return False
        if "namespaceSelector" in peer:
            near = selects(peer["namespaceSelector"], self.namespaces[other.namespace])
        else:
            near = other.namespace == home
        return near and selects(peer.get("podSelector") or {}, other.labels)


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches; the empty one matches all."""
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _expression(expression, labels) for expression in expressions
    )


def _expression(expression: Manifest, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case unknown:
            raise ValueError(f"a label selector has no operator {unknown!r}")


def _port_matches(ports: Sequence[Manifest] | None, target: Peer, port: int, protocol: str) -> bool:
    return not ports or any(_one_port(entry, target, port, protocol) for entry in ports)


def _one_port(entry: Manifest, target: Peer, port: int, protocol: str) -> bool:
    if entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return target.named_ports.get(wanted) == port
    return bool(wanted <= port <= entry.get("endPort", wanted))


def _in_block(block: Manifest, ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    inside = address in ipaddress.ip_network(block["cidr"])
    return inside and not any(address in ipaddress.ip_network(hole) for hole in block.get("except") or ())


def policies_of(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The NetworkPolicies among `manifests`."""
    return tuple(manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy")
