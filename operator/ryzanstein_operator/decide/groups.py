"""Replicas that are groups of several pods, as the cluster shows them. Pure; reads StatefulSets and pods.

A pod belongs to a group by its owner's UID, never by its name: one of an older StatefulSet of the same name is a stray.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide import steps
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.times import moment
from ryzanstein_operator.desired import names
from ryzanstein_worker.contract import LABEL_GROUP


@dataclass(frozen=True)
class Member:
    """One pod of a group that has not ended.

    since: when it was made, or if later, when it became ready or ceased to be. due: of one that is on its way out, when
    it should be gone at the latest. lost: why its node cannot be counted on. words: the scheduler's, while it has none.
    """

    name: str
    node: str
    ready: bool
    made: datetime
    since: datetime
    due: datetime | None
    lost: str
    words: str


@dataclass(frozen=True)
class Group:
    """One StatefulSet with its pods. size: how many it is to have; leaving: since when it is being deleted, with the
    time that its pods are given in `grace`."""

    name: str
    uid: str
    revision: str
    size: int
    made: datetime
    leaving: datetime | None
    grace: timedelta
    members: tuple[Member, ...]

    @property
    def staying(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.due is None)

    @property
    def ready(self) -> bool:
        """All of its pods are: one that is not keeps every other from its work."""
        return self._whole(member.ready and not member.lost for member in self.staying)

    @property
    def placed(self) -> bool:
        """It has all of its pods, and each a node."""
        return self._whole(bool(member.node) for member in self.staying)

    @property
    def seated(self) -> int:
        """How many of its pods have a node."""
        return sum(bool(member.node) for member in self.staying)

    @property
    def words(self) -> str:
        """The scheduler's, of the first pod that has no node."""
        found = [f"{member.name}: {member.words}" for member in self.staying if not member.node and member.words]
        return found[0] if found else ""

    @property
    def waits_since(self) -> datetime | None:
        """Since when pods wait in vain for the others; None where none does, or one is on its way out in time."""
        if self.placed or len(self.staying) < len(self.members):
            return None
        without = [member.made for member in self.staying if not member.node]
        return min(without) if without else max((member.since for member in self.staying), default=self.made)

    @property
    def due(self) -> datetime | None:
        """Of a group that is being deleted: when its last pod should be gone at the latest."""
        if self.leaving is None:
            return None
        dues = [member.due for member in self.members if member.due]
        return max(dues) if dues else self.leaving + self.grace + timedelta(seconds=steps.LEAVING_SECONDS)

    def broken(self, now: datetime) -> str:
        """Why the group cannot become whole again by itself, or nothing."""
        for member in self.members:
            if member.lost:
                return f"pod {member.name} is on node {member.node}, which cannot be counted on: {member.lost}"
            if member.due and member.due <= now:
                return f"pod {member.name} does not go from node {member.node}"
        return ""

    def holds(self, now: datetime) -> bool:
        """When it is ended, does it still have what others could use? A pod that does not go will not give it back."""
        if not self.members:
            return self.leaving is None  # its pods may be coming as we look
        dues = [member.due or self.due for member in self.members if not member.lost]
        return any(due is None or due > now for due in dues)

    def _whole(self, each: Iterable[bool]) -> bool:
        found = list(each)
        return len(found) == self.size and all(found)


def pods_a_replica(service: Manifest) -> int:
    """`parallelism.nodes` of a live manifest, also of one whose spec cannot be run."""
    spec = service.get("spec")
    parallelism = spec.get("parallelism") if isinstance(spec, dict) else None
    nodes = parallelism.get("nodes") if isinstance(parallelism, dict) else None
    return nodes if isinstance(nodes, int) and nodes > 1 else 1


def is_group(child: Manifest, service: Manifest) -> bool:
    """Whether a child is the StatefulSet of one of the service's groups."""
    owners = child["metadata"].get("ownerReferences") or ()
    ours = any(owner["uid"] == service["metadata"].get("uid") for owner in owners)
    return ours and (child["apiVersion"], child["kind"]) == names.GROUP_KIND


def groups_of(observed: Observed) -> tuple[Group, ...]:
    """Every group of the service, those that are being deleted included, by age and name."""
    found = [_group(child, observed) for child in observed.children if is_group(child, observed.service)]
    return tuple(sorted(found, key=lambda group: (group.made, group.name)))


def strays(observed: Observed) -> tuple[Manifest, ...]:
    """Pods of groups whose StatefulSet is gone: nobody will end them, and they hold what they were given."""
    alive = {child["metadata"]["uid"] for child in observed.children if is_group(child, observed.service)}
    return tuple(pod for pod in observed.pods if group_name(pod) and owner_uid(pod) not in alive)


def group_name(pod: Manifest) -> str:
    """The group that a pod was made for, or nothing."""
    return str(pod["metadata"].get("labels", {}).get(LABEL_GROUP, ""))


def owner_uid(pod: Manifest) -> str:
    """The UID of what controls a pod, or nothing."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _group(child: Manifest, observed: Observed) -> Group:
    metadata, spec = child["metadata"], child["spec"]
    own = [pod for pod in observed.pods if owner_uid(pod) == metadata["uid"] and not _ended(pod)]
    leaving = metadata.get("deletionTimestamp")
    return Group(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=metadata.get("labels", {}).get(names.LABEL_REVISION, ""),
        size=spec.get("replicas", 1),
        made=moment(metadata["creationTimestamp"]),
        leaving=moment(leaving) if leaving else None,
        grace=timedelta(seconds=spec["template"]["spec"].get("terminationGracePeriodSeconds", 30)),
        members=tuple(_member(pod, observed.lost_nodes) for pod in sorted(own, key=_in_order)),
    )


def _member(pod: Manifest, lost_nodes: Mapping[str, str]) -> Member:
    conditions = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions") or ()}
    ready, made = conditions.get("Ready", {}), moment(pod["metadata"]["creationTimestamp"])
    changed, node = ready.get("lastTransitionTime"), pod["spec"].get("nodeName", "")
    return Member(
        name=_name(pod),
        node=node,
        ready=ready.get("status") == "True",
        made=made,
        since=max(made, moment(changed)) if changed else made,
        due=steps.leaving_due(pod) if "deletionTimestamp" in pod["metadata"] else None,
        lost=lost_nodes.get(node, ""),
        words=str(conditions.get("PodScheduled", {}).get("message", "")),
    )


def _ended(pod: Manifest) -> bool:
    """Evicted or finished: its StatefulSet's controller makes another in its place."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _in_order(pod: Manifest) -> tuple[int, str]:
    """The tenth after the second: their names differ in the number at the end alone."""
    return len(_name(pod)), _name(pod)
