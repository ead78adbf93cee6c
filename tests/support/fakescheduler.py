"""Which node a pod goes to: the few rules of kube-scheduler that tests need. Pure; knows manifests, makes no call.

Hard rules: the node's `pods` and extended resources (names with a "/"), cordons, taints, nodeSelector, required pod
(anti-)affinity by any topology label. Among the nodes that are left: preferred anti-affinity, then the fewest pods of
the same controller, then the fewest pods.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ryzanstein_operator.api.quantity import parse_quantity

Manifest = dict[str, Any]


@dataclass
class Node:
    """One node, and what its pods take."""

    name: str
    labels: dict[str, str]
    allocatable: dict[str, int]
    taints: list[Manifest] = field(default_factory=list)
    unschedulable: bool = False
    used: Counter[str] = field(default_factory=Counter)
    siblings: Counter[str] = field(default_factory=Counter)
    """Pods by the UID of their controller."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Node":
        amounts = {name: int(parse_quantity(value)) for name, value in manifest["status"]["allocatable"].items()}
        spec = manifest.get("spec", {})
        labels = manifest["metadata"].get("labels", {})
        taints = spec.get("taints", [])
        return cls(manifest["metadata"]["name"], labels, amounts, taints, spec.get("unschedulable", False))


class Scheduler:
    """Remembers which pods are where. `choose` decides, `place` and `forget` keep the account."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._placed: dict[str, tuple[Manifest, Node]] = {}
        self._by_label: dict[tuple[str, str, str], set[str]] = defaultdict(set)

    def put_node(self, manifest: Manifest) -> None:
        """Take in a node, or what has changed of it."""
        node, old = Node.of(manifest), self.nodes.get(manifest["metadata"]["name"])
        if old is None:
            self.nodes[node.name] = node
        else:
            old.labels, old.allocatable = node.labels, node.allocatable
            old.taints, old.unschedulable = node.taints, node.unschedulable

    def place(self, pod: Manifest, name: str) -> None:
        """`pod` is on node `name`, from now until `forget`."""
        uid = pod["metadata"]["uid"]
        if uid in self._placed or name not in self.nodes:
            return
        node = self.nodes[name]
        self._placed[uid] = (pod, node)
        node.used.update(requests(pod))
        node.siblings[_controller(pod)] += 1
        for place in _label_places(pod):
            self._by_label[place].add(uid)

    def forget(self, uid: str) -> bool:
        """The pod takes no room any more. False if it never had any."""
        if uid not in self._placed:
            return False
        pod, node = self._placed.pop(uid)
        node.used.subtract(requests(pod))
        node.siblings[_controller(pod)] -= 1
        for place in _label_places(pod):
            self._by_label[place].discard(uid)
        return True

    def choose(self, pod: Manifest) -> tuple[str, str]:
        """The node for `pod`, or an empty name and the scheduler's words for why there is none."""
        objections: Counter[str] = Counter()
        fit = []
        for node in self.nodes.values():
            why = next(self._objections(pod, node), "")
            if why:
                objections[why] += 1
            else:
                fit.append(node)
        if not fit:
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(objections.items()))
            return "", f"0/{len(self.nodes)} nodes are available: {reasons}."
        owner = _controller(pod)
        best = min(fit, key=lambda n: (self._dislike(pod, n), n.siblings[owner], n.used["pods"], n.name))
        return best.name, ""

    def _objections(self, pod: Manifest, node: Node) -> Iterator[str]:
        spec = pod["spec"]
        if node.unschedulable:
            yield "node(s) were unschedulable"
        for taint in node.taints:
            if taint["effect"] != "PreferNoSchedule" and not _tolerated(taint, spec.get("tolerations", ())):
                key, value = taint["key"], taint.get("value", "")
                yield f"node(s) had untolerated taint {{{key}: {value}}}"
        if any(node.labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
            yield "node(s) didn't match Pod's node affinity/selector"
        for name, amount in requests(pod).items():
            if node.used[name] + amount > node.allocatable.get(name, 0):
                yield "Too many pods" if name == "pods" else f"Insufficient {name}"
        affinity = spec.get("affinity", {})
        for term in affinity.get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", ()):
            if self._near(pod, node, term):
                yield "node(s) didn't match pod anti-affinity rules"
        for term in affinity.get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", ()):
            first = matches(term["labelSelector"], pod["metadata"].get("labels", {})) and not self._matching(pod, term)
            if term["topologyKey"] not in node.labels or not (first or self._near(pod, node, term)):
                yield "node(s) didn't match pod affinity rules"

    def _dislike(self, pod: Manifest, node: Node) -> int:
        terms = pod["spec"].get("affinity", {}).get("podAntiAffinity", {})
        preferred = terms.get("preferredDuringSchedulingIgnoredDuringExecution", ())
        return sum(one["weight"] * len(self._near(pod, node, one["podAffinityTerm"])) for one in preferred)

    def _near(self, pod: Manifest, node: Node, term: Manifest) -> list[Node]:
        """The nodes, one for each pod that `term` speaks of, in the same topology domain as `node`."""
        key = term["topologyKey"]
        return [other for other in self._matching(pod, term) if other.labels.get(key) == node.labels.get(key)]

    def _matching(self, pod: Manifest, term: Manifest) -> list[Node]:
        selector, namespace = term["labelSelector"], pod["metadata"]["namespace"]
        pairs = selector.get("matchLabels", {}).items()
        candidates = min((self._by_label[namespace, *pair] for pair in pairs), key=len, default=set(self._placed))
        found = [self._placed[uid] for uid in candidates]
        return [node for other, node in found if _selects(selector, namespace, other)]


def requests(pod: Manifest) -> Counter[str]:
    """What a pod takes of a node: a place, and extended resources."""
    amounts = Counter({"pods": 1})
    for container in pod["spec"]["containers"]:
        for name, value in container.get("resources", {}).get("limits", {}).items():
            if "/" in name:
                amounts[name] += int(value)
    return amounts


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector selects an object of these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(rule, labels) for rule in selector.get("matchExpressions", ()))


def _holds(rule: Manifest, labels: dict[str, str]) -> bool:
    key, operator = rule["key"], rule["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return bool((key in labels) == (operator == "Exists"))
    return bool((labels.get(key) in rule["values"]) == (operator == "In"))


def _selects(selector: Manifest, namespace: str, pod: Manifest) -> bool:
    return pod["metadata"]["namespace"] == namespace and matches(selector, pod["metadata"].get("labels", {}))


def _tolerated(taint: Manifest, tolerations: list[Manifest]) -> bool:
    return any(
        one.get("key") in (None, "", taint["key"])
        and one.get("effect") in (None, "", taint["effect"])
        and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
        for one in tolerations
    )


def _controller(pod: Manifest) -> str:
    owners = pod["metadata"].get("ownerReferences", ())
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _label_places(pod: Manifest) -> Iterator[tuple[str, str, str]]:
    namespace = pod["metadata"]["namespace"]
    return ((namespace, key, value) for key, value in pod["metadata"].get("labels", {}).items())
