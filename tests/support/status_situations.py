"""What may befall a service, one row a situation: what the operator sees and the conditions it must give.

The conditions' tests hold the operator to the rows; the troubleshooting page takes its messages from them. A reason
that no row brings about fails a test, so a new reason comes with a row here.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from group_situations import GROUP_EVENTS, GROUP_SITUATIONS
from operator_builders import (
    NOW,
    SETTINGS,
    broken_pod,
    conditions_of,
    container,
    deployment_says,
    endpoints,
    live_children,
    pod,
    ready_pod,
    service,
    settled,
    unscheduled_pod,
)
from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import EVENTS as OF_EVENTS
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Demand, NodeVerdict, Observed, Ref, ReplicaView, ServiceView
from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_operator.decide.reconcile import reconcile
from scaling_situations import SCALING_EVENTS, SCALING_SITUATIONS

HUB = service(model={"uri": "hf://a/b"})
ONE, TWO, ZERO = service(), service(replicas=2), service(replicas=0)
CLAIM = service(model={"uri": "pvc://models/a"})
OLD = "0123456789"
STALLED = {
    "type": "Progressing",
    "status": "False",
    "reason": "ProgressDeadlineExceeded",
    "message": "ReplicaSet chat-1 has timed out",
}
QUOTA = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": 'pods "chat-5d9c" is forbidden: exceeded quota: gpus',
}
UNUSABLE = container(ended={"exitCode": 78, "message": "The model is corrupt."})
FETCHING = {"name": "fetch", "state": {"running": {}}}
FETCHED = {"name": "fetch", "state": {"terminated": {"exitCode": 0}}}
FETCH_FAILS = container("fetch", ended={"exitCode": 69, "message": "the hub is away"})
REFUSED = {Ref("apps/v1", "Deployment", "team", "chat"): "admission webhook said no"}
NO_IMAGE = {
    "reason": "ImagePullBackOff",
    "message": 'Back-off pulling image "image:1": ErrImagePull: rpc error: code = NotFound desc = image:1: not found',
}
NO_SECRET = {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}
OOM = {"exitCode": 137, "reason": "OOMKilled"}
SPARE = service(replicas=2, disruption={"maxUnavailable": 1})
GPUS = service(accelerator="nvidia.com/gpu", parallelism={"tensor": 2})
SMALL = service(resources={"limits": {"memory": "1Gi"}})

ADDRESS = "10.0.0.1"
FAULT = "XID 79: GPU 0 has fallen off the bus"
SILENT = "It does not answer health checks."
HANGS = "Its slowest rank or its server has not moved for 4.2 s."
GIVEN_UP = "no gateway reaches a replica on it, and its kubelet does not answer"

_REVISION = re.compile(r"revision [0-9a-f]{10}")


def seen(observed: Observed, row: ReplicaView, *, others_see: int = 0) -> Observed:
    """As one gateway sees it, and `others_see` gateways that find every replica sound. The pods have `ADDRESS`."""
    pods = copy.deepcopy(observed.pods)
    for one in pods:
        one["status"]["podIP"] = row.address
    views = [ServiceView("gateway-a", 0, (row,)), *(ServiceView(f"gateway-{n}", 1) for n in range(others_see))]
    return replace(observed, pods=pods, views=tuple(views))


def on_a_lost_node(
    live: Manifest, *others: Manifest, reason: str = "NodeUnreachable", message: str = GIVEN_UP
) -> Observed:
    """The pod chat-z has been deleted from node-9, which is lost, and does not go."""
    leaving = ready_pod(live, "chat-z", node="node-9")
    leaving["metadata"] |= {"deletionTimestamp": "2026-01-02T03:06:00Z", "deletionGracePeriodSeconds": 135}
    observed = settled(live, leaving, *others)
    slices = tuple(endpoints(live, *(one["metadata"]["name"] for one in others)) for _ in others)
    verdict = NodeVerdict("node-9", reason, message, NOW, lost=True, shunned=True)
    return replace(observed, endpoint_slices=slices, nodes={"node-9": verdict}, lost_nodes={"node-9": message})


def fallen_pod(live: Manifest) -> Manifest:
    """It was ready in this life of its container, and is not any more."""
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-02T03:04:01Z"},
    ]
    running = {"name": "worker", "ready": False, "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}}
    return pod(live, conditions=conditions, containerStatuses=[running])


def told_of_a_node(live: Manifest) -> Manifest:
    node = {"name": "node-9", "reason": "NodeUnreachable", "message": GIVEN_UP, "since": "2026-01-02T03:00:00Z"}
    return {**live, "status": {"unhealthyNodes": [node]}}


def saying(observed: Observed, *conditions: dict[str, Any]) -> Observed:
    return replace(observed, children=deployment_says(observed.children, *conditions))


def named(name: str, *, rival_of: dict[str, Any]) -> Observed:
    older = service(name, created="2025-01-01T00:00:00Z", model={"uri": "demo://", "name": "chat"})
    return replace(settled(rival_of, ready_pod(rival_of)), services=(rival_of, older))


def stranger() -> Observed:
    """A Service of the workers' name that belongs to nobody we know."""
    observed = settled(ONE)
    other = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat-workers", "namespace": "team", "uid": "x"},
    }
    kept = [child for child in observed.children if child["metadata"]["name"] != "chat-workers"]
    return replace(observed, children=(*kept, other))


def loading(name: str = "worker", started: str = "2026-01-02T03:00:30Z") -> Manifest:
    """A container that runs and is not ready."""
    return {"name": name, "image": "image:1", "ready": False, "state": {"running": {"startedAt": started}}}


def was_ready(live: Manifest) -> Manifest:
    """The same service after it has been ready."""
    return {**live, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def set_up_pod(live: Manifest, *, ready_to_start: str, since: str) -> Manifest:
    """A pod whose volumes and network are (not) set up on its node; its image is not there yet."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
    start = {"type": "PodReadyToStartContainers", "status": ready_to_start, "lastTransitionTime": since}
    creating = container(waiting={"reason": "ContainerCreating"})
    return pod(live, phase="Pending", conditions=[scheduled, start], containerStatuses=[creating])


def leaving_pod(live: Manifest, *, due: str = "2026-01-02T03:00:00Z") -> Manifest:
    """A pod that was deleted and whose grace period ended at `due`."""
    found = ready_pod(live)
    found["metadata"]["deletionTimestamp"] = due
    return found


def drifted() -> Observed:
    children = live_children(ONE)
    for child in children:
        if child["kind"] == "Deployment":
            child["spec"]["replicas"] = 5
    return replace(settled(ONE, ready_pod(ONE)), children=children)


SITUATIONS: dict[str, tuple[Observed, dict[str, str]]] = {
    "a replica loads the model": (
        settled(ONE, pod(ONE, containerStatuses=[loading()])),
        {"Ready": "False ReplicasStarting", "Serving": "False ReplicasStarting", "Degraded": "False AsExpected"},
    ),
    "nothing is there yet": (
        Observed(ONE),
        {
            "Ready": "False ReplicasStarting",
            "Serving": "False ReplicasStarting",
            "Progressing": "True RollingOut",
            "ModelCached": "True InImage",
            "CapacityAvailable": "Unknown Pending",
            "Degraded": "False AsExpected",
        },
    ),
    "all is well": (
        settled(TWO, ready_pod(TWO, "a"), ready_pod(TWO, "b")),
        {
            "Ready": "True AllReplicasReady",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutComplete",
            "ModelCached": "True InImage",
            "CapacityAvailable": "True Scheduled",
            "Degraded": "False AsExpected",
        },
    ),
    "one of two starts": (
        settled(TWO, ready_pod(TWO, "a"), pod(TWO, "b")),
        {"Ready": "False ReplicasStarting", "Serving": "True EndpointsReady", "Degraded": "False AsExpected"},
    ),
    "one of two is killed": (
        settled(TWO, ready_pod(TWO, "a"), broken_pod(TWO, container(ended={"exitCode": 137}), "b")),
        {
            "Ready": "False Restarting",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutComplete",
            "Degraded": "True Restarting",
        },
    ),
    "ready, but in no endpoint yet": (
        replace(settled(ONE, ready_pod(ONE)), endpoint_slices=(endpoints(ONE, "chat-a", ready=False),)),
        {"Ready": "True AllReplicasReady", "Serving": "False ReplicasStarting"},
    ),
    "a rollout begins: the old revision serves all": (
        saying(settled(TWO, ready_pod(TWO, "a", revision=OLD), ready_pod(TWO, "b", revision=OLD), pod(TWO, "c"))),
        {
            "Ready": "True PreviousRevisionServes",
            "Serving": "True EndpointsReady",
            "Progressing": "True RollingOut",
            "Degraded": "False AsExpected",
        },
    ),
    "a rollout is stuck on a bad model while the old revision serves": (
        saying(settled(ONE, ready_pod(ONE, "a", revision=OLD), broken_pod(ONE, UNUSABLE, "b")), STALLED),
        {
            "Ready": "True PreviousRevisionServes",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutStalled",
            "Degraded": "True ModelUnusable",
        },
    ),
    "a rollout is stuck without a word": (
        saying(settled(ONE, pod(ONE)), STALLED),
        {"Progressing": "False RolloutStalled", "Degraded": "True RolloutStalled"},
    ),
    "a bad model": (
        settled(ONE, broken_pod(ONE, UNUSABLE)),
        {"Ready": "False ModelUnusable", "Serving": "False ModelUnusable", "Degraded": "True ModelUnusable"},
    ),
    "no node has room": (
        settled(TWO, ready_pod(TWO, "a"), unscheduled_pod(TWO, "0/2 nodes are available: 2 Insufficient cpu.", "b")),
        {
            "Ready": "False Unschedulable",
            "Serving": "True EndpointsReady",
            "CapacityAvailable": "False Unschedulable",
            "Degraded": "True Unschedulable",
        },
    ),
    "a quota forbids pods": (
        saying(settled(ONE), QUOTA),
        {"Ready": "False PodsRefused", "CapacityAvailable": "False PodsRefused", "Degraded": "True PodsRefused"},
    ),
    "a claim is missing": (
        settled(CLAIM, unscheduled_pod(CLAIM, 'persistentvolumeclaim "models" not found')),
        {
            "Ready": "False ClaimUnavailable",
            "ModelCached": "False ClaimUnavailable",
            "CapacityAvailable": "Unknown ClaimUnavailable",
        },
    ),
    "a model on a claim": (settled(CLAIM, ready_pod(CLAIM)), {"ModelCached": "True OnClaim"}),
    "no pod has begun to download": (settled(HUB), {"ModelCached": "Unknown Pending"}),
    "a download runs": (settled(HUB, pod(HUB, initContainerStatuses=[FETCHING])), {"ModelCached": "False Downloading"}),
    "a download is through": (
        settled(HUB, pod(HUB, initContainerStatuses=[FETCHED])),
        {"ModelCached": "True Downloaded", "Ready": "False ReplicasStarting"},
    ),
    "a download fails": (
        settled(HUB, broken_pod(HUB, FETCH_FAILS)),
        {"ModelCached": "False DownloadFailing", "Ready": "False DownloadFailing", "Degraded": "True DownloadFailing"},
    ),
    "scaled to zero": (
        settled(ZERO),
        {
            "Ready": "False ScaledToZero",
            "Serving": "False ScaledToZero",
            "Progressing": "False RolloutComplete",
            "CapacityAvailable": "True ScaledToZero",
            "Degraded": "False AsExpected",
        },
    ),
    "one too many still there": (
        settled(ONE, ready_pod(ONE, "a"), ready_pod(ONE, "b")),
        {"Ready": "True AllReplicasReady", "Progressing": "True RollingOut"},
    ),
    "an older service has the model name": (
        named("first", rival_of=ONE),
        {"Ready": "False ModelNameTaken", "Serving": "False ModelNameTaken", "Degraded": "False AsExpected"},
    ),
    "the API server refuses a child": (
        replace(
            settled(ONE, ready_pod(ONE)),
            refused=REFUSED,
        ),
        {
            "Ready": "False ApplyRefused",
            "Serving": "True EndpointsReady",
            "Progressing": "False ApplyRefused",
            "Degraded": "True ApplyRefused",
        },
    ),
    "the spec cannot be read: an older CRD let it through": (
        replace(settled(ONE), service=service(replicas=-1)),
        {
            "Ready": "False InvalidSpec",
            "Serving": "False InvalidSpec",
            "Progressing": "False InvalidSpec",
            "ModelCached": "Unknown InvalidSpec",
            "CapacityAvailable": "Unknown InvalidSpec",
            "Degraded": "True InvalidSpec",
        },
    ),
    "a stranger's object bears a name that is needed": (
        stranger(),
        {
            "Ready": "False NameConflict",
            "Serving": "False NameConflict",
            "Progressing": "False NameConflict",
            "Degraded": "True NameConflict",
        },
    ),
    "the API server refuses a child of a new service": (
        replace(settled(ONE), refused=REFUSED),
        {"Ready": "False ApplyRefused", "Serving": "False ApplyRefused", "Degraded": "True ApplyRefused"},
    ),
    "the API server refuses a change of one that serves": (
        replace(settled(was_ready(ONE), ready_pod(ONE)), refused=REFUSED),
        {
            "Ready": "True PreviousRevisionServes",
            "Serving": "True EndpointsReady",
            "Progressing": "False ApplyRefused",
            "Degraded": "True ApplyRefused",
        },
    ),
    "a rollout's last old replica is gone, as maxUnavailable allows": (
        saying(settled(was_ready(SPARE), ready_pod(SPARE, "a"), pod(SPARE, "b"))),
        {"Ready": "True RollingOut", "Serving": "True EndpointsReady", "Progressing": "True RollingOut"},
    ),
    "a volume that cannot be mounted": (
        settled(CLAIM, set_up_pod(CLAIM, ready_to_start="False", since="2026-01-02T03:00:00Z")),
        {
            "Ready": "False PodNotSetUp",
            "Serving": "False PodNotSetUp",
            "ModelCached": "Unknown Pending",
            "Degraded": "True PodNotSetUp",
        },
    ),
    "a pod that should be gone": (
        settled(GPUS, ready_pod(GPUS, "chat-b"), leaving_pod(GPUS)),
        {"Ready": "True AllReplicasReady", "Degraded": "True StuckTerminating"},
    ),
    "an image that does not exist": (
        settled(ONE, broken_pod(ONE, container(waiting=NO_IMAGE))),
        {"Ready": "False ImageUnavailable", "Serving": "False ImageUnavailable", "Degraded": "True ImageUnavailable"},
    ),
    "a Secret that does not exist": (
        settled(HUB, broken_pod(HUB, container("fetch", waiting=NO_SECRET))),
        {
            "Ready": "False ContainerRefused",
            "Serving": "False ContainerRefused",
            "Degraded": "True ContainerRefused",
        },
    ),
    "a memory limit that is too low": (
        settled(SMALL, broken_pod(SMALL, container(waiting=BACK_OFF, ended=OOM))),
        {"Ready": "False OutOfMemory", "Serving": "False OutOfMemory", "Degraded": "True OutOfMemory"},
    ),
    "a worker that ends again and again": (
        settled(ONE, broken_pod(ONE, container(waiting=BACK_OFF, ended={"exitCode": 1, "message": "no CUDA device"}))),
        {"Ready": "False CrashLoop", "Serving": "False CrashLoop", "Degraded": "True CrashLoop"},
    ),
    "the only replica lost a rank": (
        settled(ONE, broken_pod(ONE, container(ended={"exitCode": 70, "message": "rank 1 died"}))),
        {"Ready": "False Restarting", "Serving": "False Restarting", "Degraded": "True Restarting"},
    ),
    "the only replica's node is lost": (
        on_a_lost_node(ONE),
        {
            "Ready": "False NodeUnreachable",
            "Serving": "False NodeUnreachable",
            "Degraded": "True NodeUnreachable",
        },
    ),
    "the only replica's node is not ready": (
        on_a_lost_node(ONE, reason="NodeNotReady", message="Kubernetes says that it is not ready: PLEG is not healthy"),
        {"Ready": "False NodeNotReady", "Serving": "False NodeNotReady", "Degraded": "True NodeNotReady"},
    ),
    "another replica has taken the place of one on a lost node": (
        on_a_lost_node(ONE, ready_pod(ONE, "chat-b", node="node-1")),
        {"Ready": "True AllReplicasReady", "Serving": "True EndpointsReady", "Degraded": "False AsExpected"},
    ),
    "an accelerator is bad": (
        seen(settled(ONE, pod(ONE)), ReplicaView(ADDRESS, "NotReady", FAULT, 2.0, FAULT)),
        {
            "Ready": "False AcceleratorFault",
            "Serving": "False AcceleratorFault",
            "Degraded": "True AcceleratorFault",
        },
    ),
    "a replica does not answer, and Kubernetes has not noticed": (
        seen(settled(ONE, ready_pod(ONE)), ReplicaView(ADDRESS, "Unreachable", SILENT, 2.0)),
        {
            "Ready": "True AllReplicasReady",
            "Serving": "False ReplicaUnreachable",
            "Degraded": "True ReplicaUnreachable",
        },
    ),
    "a replica does not answer its probe either": (
        seen(settled(ONE, pod(ONE)), ReplicaView(ADDRESS, "Refused", "Nobody listens on its health port.", 2.0)),
        {"Ready": "False ReplicaUnreachable", "Serving": "False ReplicaUnreachable"},
    ),
    "a rank hangs": (
        seen(settled(ONE, pod(ONE)), ReplicaView(ADDRESS, "Lagging", HANGS, 4.0)),
        {"Ready": "False ReplicaLagging", "Serving": "False ReplicaLagging", "Degraded": "True ReplicaLagging"},
    ),
    "a replica that was ready runs and is not ready any more": (
        settled(TWO, ready_pod(TWO, "a"), fallen_pod(TWO)),
        {"Ready": "False ReplicaLagging", "Serving": "True EndpointsReady", "Degraded": "True ReplicaLagging"},
    ),
    "one of two gateways reaches no replica": (
        seen(settled(ONE, ready_pod(ONE)), ReplicaView(ADDRESS, "Unreachable", SILENT, 2.0), others_see=1),
        {"Serving": "True EndpointsReady", "Degraded": "True ReplicaUnreachable"},
    ),
    "one of three gateways reaches no replica": (
        seen(settled(ONE, ready_pod(ONE)), ReplicaView(ADDRESS, "Unreachable", SILENT, 2.0), others_see=2),
        {"Serving": "True EndpointsReady", "Degraded": "False AsExpected"},
    ),
    "a replica drains": (
        seen(settled(TWO, ready_pod(TWO)), ReplicaView(ADDRESS, "Draining", "It says that it is draining.", 2.0)),
        {"Degraded": "False AsExpected"},
    ),
    "the only replica has no node": (
        settled(ONE, unscheduled_pod(ONE, "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")),
        {"Ready": "False Unschedulable", "Serving": "False Unschedulable", "Degraded": "True Unschedulable"},
    ),
    **GROUP_SITUATIONS,
    **SCALING_SITUATIONS,
}

EVENTS: dict[str, Observed] = {
    "a node is lost": on_a_lost_node(TWO, ready_pod(TWO, "chat-a", node="node-1")),
    "a node is back": replace(settled(told_of_a_node(ONE), ready_pod(ONE)), nodes={}),
    "somebody scaled the Deployment by hand": drifted(),
    "requests wait at zero": replace(settled(ZERO), demand=Demand(waiting=3)),
    **GROUP_EVENTS,
    **SCALING_EVENTS,
}
"""Situations that Events alone tell of."""


def examples() -> dict[tuple[ConditionType, Reason], str]:
    """A message for each condition and reason that a situation brings about, of the first that does.

    The revision in it is a fixed one: it is a hash of the pod template, of which these messages say nothing.
    """
    found: dict[tuple[ConditionType, Reason], str] = {}
    for observed, _ in SITUATIONS.values():
        for kind, condition in conditions_of(observed).items():
            message = _REVISION.sub("revision 5d9c7b8f41", condition["message"])
            found.setdefault((ConditionType(kind), Reason(condition["reason"])), message)
    return found


def event_examples() -> dict[Reason, str]:
    """A message for each reason that Events alone give."""
    return {reason: message for reason, message in _told_by_events() if reason in OF_EVENTS}


def _told_by_events() -> Iterator[tuple[Reason, str]]:
    for observed in EVENTS.values():
        for action in reconcile(observed, SETTINGS, NOW).actions:
            if isinstance(action, EmitEvent):
                yield Reason(action.reason), action.message
