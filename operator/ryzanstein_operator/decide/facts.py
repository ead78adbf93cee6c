"""What one visit knows, gathered once: the input of every condition. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime

from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.inference_service import InferenceService, UnhealthyNode
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide import claims, pods, sight, steps
from ryzanstein_operator.decide.groups import groups_of, pods_a_replica
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.pods import Trouble, Worker
from ryzanstein_operator.decide.replicas import as_replicas
from ryzanstein_operator.decide.size import held, in_force
from ryzanstein_operator.decide.sizing import Decision
from ryzanstein_operator.decide.turn import Turn
from ryzanstein_operator.desired import names

DEPLOYMENT = "Deployment"
_POD_NAME = re.compile(r'pods "[^"]*"')
"""A ReplicaSet draws another name for each try: with it, the message would never come to rest."""


@dataclass(frozen=True)
class Facts:
    """service: None where the spec cannot be read; blocked: why the children cannot be made so as they should be.

    answering: replicas that most gateways would send requests to; as long as none has said, ready endpoints that are
    not terminating. revision: the one wanted; rival: the older service that owns
    the model name, as namespace/name; rolled_out and stalled: the Deployment's own word about the latest spec.
    leftovers: a sentence for each pod that should be gone and is not; was_ready: what the status says so far.
    turn: what is decided about replicas that are groups of pods; None where each is one pod.
    wanted: the size in force; before: what it was until now; decision: how it was chosen, with spec.autoscaling.
    told_ready: as many as the status says are ready so far.
    node_trouble: why replicas were taken from a node; unhealthy_nodes: all that cannot be counted on, as the status
    tells it.
    """

    service: InferenceService | None
    blocked: Trouble | None
    workers: tuple[Worker, ...]
    answering: int
    revision: str
    rival: str
    pods_refused: str
    rolled_out: bool
    stalled: str
    leftovers: tuple[str, ...]
    was_ready: bool
    turn: Turn | None = None
    node_trouble: Trouble | None = None
    unhealthy_nodes: tuple[UnhealthyNode, ...] = ()
    wanted: int = 0
    before: int = 0
    told_ready: int = 0
    decision: Decision | None = None

    @property
    def ready(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.workers if worker.ready)

    @property
    def updated(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.workers if worker.revision == self.revision)

    @property
    def complete(self) -> bool:
        """Every replica runs the latest spec and is ready, and no other pod is left."""
        return len(self.workers) == self.wanted and all(worker.ready for worker in self.updated) and self.all_updated

    @property
    def settled(self) -> bool:
        """The rollout is over. It stays over when a replica dies later: that is no rollout."""
        return self.complete or (self.rolled_out and self.all_updated and len(self.workers) == self.wanted)

    @property
    def all_updated(self) -> bool:
        return len(self.updated) == len(self.workers)

    @property
    def broken(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.workers if worker.trouble)

    @property
    def culprit(self) -> Worker | None:
        """The first by name of those that have the worst trouble."""
        found = [worker for worker in self.broken if worker.trouble == self.trouble]
        return found[0] if found else None

    @property
    def enough(self) -> bool:
        """As many are ready as must be while revisions are exchanged: what `maxUnavailable` leaves."""
        allowed = self.service.spec.disruption.max_unavailable if self.service else 0
        if self.turn and self.turn.in_place:
            allowed = max(1, allowed)
        return self.growing or len(self.ready) >= max(1, self.wanted - allowed)

    @property
    def growing(self) -> bool:
        """With spec.autoscaling: more are wanted than there were, and of those that answered none is missing.

        Who was ready stays so while the others come. Who was not, because one was missing, is so again once nothing
        but room for more is.
        """
        autoscaling = self.service.spec.autoscaling if self.service else None
        if autoscaling is None or not 0 < len(self.ready) < self.wanted:
            return False
        if self.was_ready:
            return len(self.ready) >= min(self.told_ready, self.wanted)
        missing = [worker.trouble for worker in self.workers if not worker.ready]
        room = bool(missing) and all(one is not None and one.reason == Reason.UNSCHEDULABLE for one in missing)
        return room and len(self.ready) >= autoscaling.min_replicas

    @property
    def withheld(self) -> Trouble | None:
        """Groups that could not be placed are told of also while none waits."""
        record = self.turn.record if self.turn else None
        return Trouble(Reason.UNSCHEDULABLE, record.message) if record and record.tries else None

    @property
    def trouble(self) -> Trouble | None:
        """What is worst, of the pods that are and of those that may not be."""
        found = [worker.trouble for worker in self.workers if worker.trouble]
        if self.withheld:
            found.append(self.withheld)
        if self.node_trouble and len(self.ready) < self.wanted:
            found.append(self.node_trouble)
        return pods.worst(found + ([Trouble(Reason.PODS_REFUSED, self.pods_refused)] if self.pods_refused else []))


def gather(
    observed: Observed,
    service: InferenceService | None,
    revision: str,
    blocked: Trouble | None,
    now: datetime,
    turn: Turn | None = None,
) -> Facts:
    """Reads what is observed. `revision` is the pod template's that is wanted, empty where the spec cannot be read."""
    name = observed.service["metadata"]["name"]
    progress = _deployment_conditions(observed).get("Progressing", {})
    return Facts(
        service=service,
        blocked=blocked,
        workers=workers_of(observed, now),
        answering=_answering(observed, name),
        revision=revision,
        rival=_rival(observed),
        pods_refused=pods_refused(observed),
        rolled_out=turn.rolled_out if turn else progress.get("reason") == "NewReplicaSetAvailable",
        stalled=turn.stalled(now) if turn else _stalled(progress),
        leftovers=steps.leftover_words(observed.pods, now),
        was_ready=_was_ready(observed.service),
        turn=turn,
        wanted=in_force(observed, service) if service else 0,
        before=_before(observed, service),
        told_ready=int((observed.service.get("status") or {}).get("readyReplicas") or 0),
        decision=observed.decision if service and service.spec.autoscaling else None,
        node_trouble=sight.node_trouble(observed),
        unhealthy_nodes=sight.unhealthy_nodes(observed),
    )


def _before(observed: Observed, service: InferenceService | None) -> int:
    autoscaling = service.spec.autoscaling if service else None
    return held(observed, autoscaling) if autoscaling else 0


def workers_of(observed: Observed, now: datetime) -> tuple[Worker, ...]:
    """The replicas, as pods, gateways and nodes show them."""
    found = sight.beheld(pods.workers(observed.pods, now), observed)
    groups = groups_of(observed)
    return as_replicas(groups, found) if groups or pods_a_replica(observed.service) > 1 else found


def _stalled(progress: Manifest) -> str:
    return str(progress.get("message", "")) if progress.get("reason") == "ProgressDeadlineExceeded" else ""


def _was_ready(live: Manifest) -> bool:
    conditions = live.get("status", {}).get("conditions") or ()
    return any(one["type"] == ConditionType.READY and one["status"] == "True" for one in conditions)


def pods_refused(observed: Observed) -> str:
    """Why pods may not be made, in the Deployment's words, or nothing."""
    failure = _deployment_conditions(observed).get("ReplicaFailure", {})
    return _POD_NAME.sub("a pod", str(failure.get("message", ""))) if failure.get("status") == "True" else ""


def _deployment_conditions(observed: Observed) -> dict[str, Manifest]:
    """Those that speak of the latest spec."""
    name = observed.service["metadata"]["name"]
    found = [child for child in observed.children if child["kind"] == DEPLOYMENT and child["metadata"]["name"] == name]
    status = found[0].get("status", {}) if found else {}
    if not found or status.get("observedGeneration", 0) < found[0]["metadata"].get("generation", 0):
        return {}
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def _answering(observed: Observed, name: str) -> int:
    """What gateways see; else ready endpoints by their pods: a dual-stack Service lists each pod in two slices."""
    seen = sight.answering(observed.views)
    if seen is not None:
        return seen
    found = set()
    for endpoint_slice in observed.endpoint_slices:
        labels = endpoint_slice["metadata"].get("labels", {})
        if labels.get("kubernetes.io/service-name", names.workers_service(name)) != names.workers_service(name):
            continue
        for endpoint in endpoint_slice.get("endpoints") or ():
            conditions = endpoint.get("conditions", {})
            if conditions.get("ready", True) and not conditions.get("terminating", False):
                found.add(endpoint.get("targetRef", {}).get("name") or tuple(endpoint["addresses"]))
    return len(found)


def _rival(observed: Observed) -> str:
    owner = claims.owners([*observed.services, observed.service]).get(claims.model_name(observed.service))
    if owner is None or claims.same(owner, observed.service):
        return ""
    return f"{owner['metadata'].get('namespace', '')}/{owner['metadata']['name']}"
