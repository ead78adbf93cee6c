"""What may befall a service whose size follows the load: rows as in `status_situations`, which adds them to its own."""

from dataclasses import replace
from typing import Any

from operator_builders import endpoints, live_children, parsed, pod, ready_pod, service, settled, unscheduled_pod
from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Demand, Observed
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Memory, Sample, Seen

TARGET = {"metric": "WaitingRequests", "value": 5}
NO_ROOM = "0/2 nodes are available: 2 Insufficient cpu."
SILENT = "Prometheus has no sample of the last 30 s; look whether it scrapes the gateways and the replicas"


def autoscaled(size: int, *, ready: bool = True, **autoscaling: Any) -> Manifest:
    """A service whose status says that its size is `size`; keywords are fields of spec.autoscaling."""
    live = service(autoscaling={"maxReplicas": 4, "targets": [TARGET], **autoscaling})
    standing = [{"type": "Ready", "status": "True" if ready else "False", "reason": "AllReplicasReady"}]
    status = {"desiredReplicas": size, "readyReplicas": size if ready else 0, "autoscaling": {}, "conditions": standing}
    return {**live, "status": status}


def decided(observed: Observed, *, memory: Memory | None = None, **seen: Any) -> Observed:
    """With the decision of a visit that saw this: all replicas of the status ready, unless told otherwise."""
    size = observed.service["status"]["desiredReplicas"]
    looked = Seen(**{"current": size, "ready": size, **seen})
    autoscaling = parsed(observed.service).spec.autoscaling
    assert isinstance(autoscaling, Autoscaling)
    return replace(observed, decision=decide(autoscaling, looked, memory or Memory(), 1000.0))


def waiting(number: float | None, trouble: str = "") -> tuple[Sample, ...]:
    return (Sample(number, None if number is None else 1, trouble),)


def _pods(live: Manifest, count: int) -> list[Manifest]:
    return [ready_pod(live, f"chat-{letter}") for letter in "abcdef"[:count]]


def serving(live: Manifest, count: int, *others: Manifest) -> Observed:
    """`count` replicas are ready; the Deployment stands as the status says."""
    observed = settled(live, *_pods(live, count), *others)
    return replace(observed, children=live_children(live, live["status"]["desiredReplicas"]))


_ONE, _TWO, _FOUR, _ZERO = autoscaled(1), autoscaled(2), autoscaled(4), autoscaled(0, minReplicas=0)
_GPUS = {
    **service(
        accelerator="nvidia.com/gpu",
        parallelism={"tensor": 2},
        autoscaling={"maxReplicas": 8, "maxAccelerators": 4, "targets": [TARGET]},
    ),
    "status": _TWO["status"],
}
_BROAD = autoscaled(2, minReplicas=2)
_LIMITS = {"policies": [{"type": "Replicas", "value": 1, "periodSeconds": 60}]}
_PACED = autoscaled(1, behavior={"scaleUp": _LIMITS})
_UP = Memory(wishes=((990.0, 4),))

SCALING_SITUATIONS: dict[str, tuple[Observed, dict[str, str]]] = {
    "an autoscaled service, and nobody has asked so far": (
        decided(serving(_ONE, 1)),
        {"Ready": "True AllReplicasReady", "ScalingActive": "Unknown Pending", "ScalingLimited": "Unknown Pending"},
    ),
    "the load is what the replicas are for": (
        decided(serving(_TWO, 2), samples=waiting(10)),
        {"ScalingActive": "True MetricsRead", "ScalingLimited": "False WithinBounds", "Degraded": "False AsExpected"},
    ),
    "more replicas are asked for while those before serve": (
        decided(serving(_TWO, 2, pod(_TWO, "chat-x")), samples=waiting(15)),
        {
            "Ready": "True ScalingUp",
            "Serving": "True EndpointsReady",
            "Degraded": "False AsExpected",
            "ScalingActive": "True MetricsRead",
        },
    ),
    "one that served is missing while more are asked for": (
        decided(serving(_TWO, 1, pod(_TWO, "chat-x")), ready=1, samples=waiting(15)),
        {"Ready": "False ReplicasStarting", "Serving": "True EndpointsReady"},
    ),
    "the load calls for more than maxReplicas": (
        decided(serving(_FOUR, 4), samples=waiting(100)),
        {"Ready": "True AllReplicasReady", "ScalingLimited": "True AtMaximum"},
    ),
    "the load calls for fewer than minReplicas": (
        decided(serving(_BROAD, 2), samples=waiting(0), memory=Memory(wishes=((600.0, 0),))),
        {"ScalingLimited": "True AtMinimum"},
    ),
    "the load calls for more than the accelerators": (
        decided(serving(_GPUS, 2), samples=waiting(100), ranks=2),
        {"ScalingLimited": "True AcceleratorBudget"},
    ),
    "the policies let the size move by one": (
        decided(serving(_PACED, 1), samples=waiting(15)),
        {"ScalingLimited": "True RateLimited"},
    ),
    "the load has only just gone": (
        decided(serving(_FOUR, 4), samples=waiting(0), memory=_UP),
        {"ScalingLimited": "True Stabilizing"},
    ),
    "what was asked for has no node": (
        decided(
            serving(autoscaled(3), 2, unscheduled_pod(_TWO, NO_ROOM, "chat-x")),
            ready=2,
            unplaced=1,
            unplaced_words=f"chat-x: {NO_ROOM}",
            samples=waiting(100),
        ),
        {
            "ScalingLimited": "True CapacityUnavailable",
            "CapacityAvailable": "False Unschedulable",
            "Serving": "True EndpointsReady",
        },
    ),
    "two answer, a third has no node, and one had been missing": (
        decided(
            serving(autoscaled(3, ready=False), 2, unscheduled_pod(_TWO, NO_ROOM, "chat-x")),
            ready=2,
            unplaced=1,
            samples=waiting(10),
        ),
        {"Ready": "True ScalingUp", "Degraded": "True Unschedulable"},
    ),
    "a target's metric is missing": (
        decided(serving(_TWO, 2), samples=waiting(None, SILENT)),
        {
            "Ready": "True AllReplicasReady",
            "ScalingActive": "False MetricsUnavailable",
            "ScalingLimited": "Unknown Pending",
            "Degraded": "False AsExpected",
        },
    ),
    "nobody asks for anything": (
        replace(decided(serving(_ZERO, 0)), endpoint_slices=(endpoints(_ZERO),)),
        {
            "Ready": "False ScaledToZero",
            "Serving": "False ScaledToZero",
            "CapacityAvailable": "True ScaledToZero",
            "ScalingActive": "True AtZero",
            "ScalingLimited": "False WithinBounds",
        },
    ),
    "the first request comes to a service without replicas": (
        replace(decided(serving(_ZERO, 0), waiting=1), demand=Demand(1)),
        {"Ready": "False ReplicasStarting", "ScalingActive": "True MetricsRead", "Degraded": "False AsExpected"},
    ),
}

SCALING_EVENTS = {"the size follows the load": decided(serving(_ONE, 1), samples=waiting(15))}
