"""A cluster in small that carries out the operator's plans for one service of groups: controllers, scheduler, kubelets,
a clock. Pure but for its own state; the plans come from the operator's real `reconcile`.

Knows what a StatefulSet, its pods and a foreground deletion do; one slot is what one pod needs of a node.
"""

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from group_builders import grouped, stamp
from operator_builders import NOW, SETTINGS
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.groups import Group, groups_of
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import Action, Apply, CreateKey, Delete, PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import reconcile
from ryzanstein_worker.contract import LABEL_POD_INDEX

TICK = timedelta(seconds=1)
STARTS = timedelta(seconds=3)
"""From the moment that all pods of a group have nodes to readiness."""


@dataclass
class Pod:
    """rank: its number in its group; node: empty while it waits; due: when it ends, if it is on its way out."""

    name: str
    uid: str
    group: Manifest
    rank: int
    made: datetime
    node: str = ""
    together: datetime | None = None
    leaving: datetime | None = None
    ready: bool = False
    changed: datetime = NOW

    def manifest(self, grace: timedelta) -> Manifest:
        metadata: Manifest = {
            "name": self.name,
            "namespace": "team",
            "uid": self.uid,
            "labels": {**self.group["spec"]["template"]["metadata"]["labels"], LABEL_POD_INDEX: str(self.rank)},
            "creationTimestamp": stamp(self.made),
            "ownerReferences": [{"kind": "StatefulSet", "uid": self.group["metadata"]["uid"], "controller": True}],
        }
        if self.leaving:
            metadata["deletionTimestamp"] = stamp(self.leaving + grace)
        placed: Manifest = {"type": "PodScheduled", "status": str(bool(self.node))}
        placed["lastTransitionTime"] = stamp(self.made)
        if not self.node:
            placed["message"] = "0 nodes are available"
        ready = {"type": "Ready", "status": str(self.ready), "lastTransitionTime": stamp(self.changed)}
        state: Manifest = {"name": "worker", "state": {"running": {}}, "ready": self.ready}
        status = {"conditions": [placed, ready], "containerStatuses": [state] if self.node else []}
        spec: Manifest = {"nodeName": self.node, "containers": []}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


@dataclass
class GroupWorld:
    """nodes: slots by name; lost: those that are dead and known to be. drain: how long a pod takes to end."""

    nodes: dict[str, int]
    spec: dict[str, Any]
    drain: timedelta = timedelta(seconds=2)
    now: datetime = NOW
    lost: set[str] = field(default_factory=set)
    children: dict[Ref, Manifest] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    status: Manifest = field(default_factory=dict)
    generation: int = 1
    made: int = 0
    plans: list[Plan] = field(default_factory=list)

    # --- what the operator sees and does ------------------------------------------------------------

    def observed(self) -> Observed:
        live = grouped(**self.spec)
        live["metadata"]["generation"] = self.generation
        live["status"] = self.status
        grace = timedelta(seconds=self.spec["disruption"]["drainSeconds"] + 15)
        return Observed(
            live,
            children=tuple(self.children.values()),
            pods=tuple(pod.manifest(grace) for pod in self.pods.values()),
            services=(live,),
            lost_nodes=dict.fromkeys(self.lost, "its kubelet is silent"),
        )

    def fingerprint(self) -> str:
        """Another one after whatever a watch would tell of."""
        pods = [(pod.uid, pod.node, pod.ready, bool(pod.leaving)) for pod in self.pods.values()]
        children = [
            (ref, child["metadata"]["uid"], "deletionTimestamp" in child["metadata"])
            for ref, child in self.children.items()
        ]
        return repr((pods, children, self.generation, sorted(self.lost)))

    def groups(self) -> tuple[Group, ...]:
        return groups_of(self.observed())

    def visit(self, *, only: int | None = None) -> Plan:
        """One visit; `only`: the operator dies after so many of the plan's actions."""
        plan = reconcile(self.observed(), SETTINGS, self.now)
        for action in plan.actions[:only]:
            self._carry_out(action)
        self.plans.append(plan)
        return plan

    def _carry_out(self, action: Action) -> None:
        match action:
            case Apply(manifest=manifest):
                known = self.children.get(action.ref)
                live = copy.deepcopy(manifest)
                self.made += known is None
                fresh = {"uid": f"uid-{self.made}", "creationTimestamp": stamp(self.now), "generation": 1}
                kept = {key: known["metadata"][key] for key in fresh} if known else fresh
                live["metadata"] |= kept
                self.children[action.ref] = live
            case Delete(ref=ref, uid=uid) if ref.kind == "Pod":
                pod = self.pods[ref.name]
                assert pod.uid == uid
                pod.leaving = pod.leaving or self.now
            case Delete(ref=ref, uid=uid):
                assert self.children[ref]["metadata"]["uid"] == uid
                assert action.foreground
                known = self.children[ref]
                stamped = known["metadata"] | {"deletionTimestamp": stamp(self.now)}
                self.children[ref] = known | {"metadata": stamped}
            case PatchStatus(status=status):
                self.status = status
            case CreateKey():
                pass

    # --- what Kubernetes does --------------------------------------------------------------------------

    def tick(self) -> None:
        self.now += TICK
        self._controllers()
        self._scheduler()
        self._kubelets()

    def _controllers(self) -> None:
        for ref, child in list(self.children.items()):
            if child["kind"] != "StatefulSet":
                continue
            own = [pod for pod in self.pods.values() if pod.group["metadata"]["uid"] == child["metadata"]["uid"]]
            if "deletionTimestamp" in child["metadata"]:
                for pod in own:
                    pod.leaving = pod.leaving or self.now
                if not own:
                    del self.children[ref]
                continue
            for rank in range(child["spec"]["replicas"]):
                name = f"{ref.name}-{rank}"
                if name not in self.pods:
                    self.made += 1
                    self.pods[name] = Pod(name, f"uid-{self.made}", child, rank, self.now, changed=self.now)

    def _scheduler(self) -> None:
        # In no order that favours whole groups: by rank first, as when many pods come at once.
        for pod in sorted(self.pods.values(), key=lambda pod: (pod.rank, pod.name)):
            if not pod.node and not pod.leaving:
                pod.node = next((name for name in sorted(self.nodes) if self._fits(pod, name)), "")

    def _fits(self, pod: Pod, node: str) -> bool:
        here = [other for other in self.pods.values() if other.node == node]
        apart = all(other.group["metadata"]["name"] != pod.group["metadata"]["name"] for other in here)
        return node not in self.lost and apart and len(here) < self.nodes[node]

    def _kubelets(self) -> None:
        for name, pod in list(self.pods.items()):
            drained = pod.leaving and pod.node not in self.lost and self.now >= pod.leaving + self.drain
            if drained or (pod.leaving and not pod.node):
                del self.pods[name]
        for pod in self.pods.values():
            uid = pod.group["metadata"]["uid"]
            mates = [other for other in self.pods.values() if other.group["metadata"]["uid"] == uid]
            whole = len(mates) == pod.group["spec"]["replicas"] and all(
                other.node and not other.leaving and other.node not in self.lost for other in mates
            )
            pod.together = (pod.together or self.now) if whole else None
            ready = pod.together is not None and self.now >= pod.together + STARTS
            if ready != pod.ready:
                pod.ready, pod.changed = ready, self.now

    # --- what happens to it ------------------------------------------------------------------------------

    def change(self, **spec: Any) -> None:
        """Another spec."""
        self.spec |= spec
        self.generation += 1

    def evict(self, name: str) -> None:
        if name in self.pods:
            pod = self.pods[name]
            pod.leaving = pod.leaving or self.now

    def restart(self, name: str) -> None:
        """A rank dies: the whole group starts anew."""
        for pod in self.pods.values():
            if name in self.pods and pod.group["metadata"]["uid"] == self.pods[name].group["metadata"]["uid"]:
                pod.together = None

    def forget(self, node: str) -> None:
        """The node object is deleted, and with it what was bound to it."""
        self.pods = {name: pod for name, pod in self.pods.items() if pod.node != node}

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.visit()
            self.tick()
