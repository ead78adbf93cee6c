"""What may befall a service of groups of pods: rows as in `status_situations`, which adds them to its own."""

from typing import Any

from group_builders import (
    WORDS,
    after,
    group_pod,
    group_pods,
    group_set,
    grouped,
    revision_of_groups,
    seen,
    stamp,
)
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Observed

ONE, TWO = grouped(), grouped(replicas=2)
BEFORE = grouped(replicas=2, engine={"maxNumSeqs": 8})
"""The former spec of TWO."""


def under_way(live: Manifest, **operation: Any) -> Manifest:
    """The same service with a record of what is under way; keywords change it."""
    name = group_set(live, 1)["metadata"]["name"]
    record = {
        "id": f"scale-3-{live['spec'].get('replicas', 1)}",
        "type": "Scale",
        "step": "Pause",
        "target": name,
        "tries": 1,
        "deadline": stamp(after(60)),
        "message": f"StatefulSet {name} could not be placed whole within 600 s and is withdrawn: {name}-1: {WORDS}; "
        f"tried again at {stamp(after(60))}",
        **operation,
    }
    return {**live, "status": {"operation": record}}


def in_place(live: Manifest, **operation: Any) -> Manifest:
    """A rollout for which there is no spare capacity."""
    rollout = {"id": f"rollout-{revision_of_groups(live)}-in-place", "type": "Rollout", **operation}
    return under_way(live, **rollout)


def _old_groups() -> tuple[tuple[Manifest, ...], tuple[Manifest, ...]]:
    groups = (group_set(BEFORE, 0, made=after(-900)), group_set(BEFORE, 1, made=after(-900)))
    pods = (*group_pods(groups[0], "node-1", "node-2"), *group_pods(groups[1], "node-3", "node-4"))
    return groups, pods


def _late() -> Observed:
    group = group_set(ONE, made=after(-600))
    pods = (group_pod(group, 0, node="node-1", made=after(-600)), group_pod(group, 1, made=after(-600)))
    waits = under_way(
        ONE, id="scale-3-1", step="Place", tries=0, target=group["metadata"]["name"], deadline=stamp(after(0))
    )
    return seen(waits, [group], pods)


def _on_a_lost_node() -> Observed:
    group = group_set(ONE)
    lost = {"node-2": "its kubelet is silent, and no gateway reaches what runs there"}
    return seen(ONE, [group], group_pods(group, "node-1", "node-2"), lost_nodes=lost)


_WHOLE = group_set(ONE)
_HALF = group_set(ONE)

GROUP_SITUATIONS: dict[str, tuple[Observed, dict[str, str]]] = {
    "a group of pods serves": (
        seen(ONE, [_WHOLE], group_pods(_WHOLE, "node-1", "node-2")),
        {"Ready": "True AllReplicasReady", "Serving": "True EndpointsReady", "CapacityAvailable": "True Scheduled"},
    ),
    "one pod of a group has no node": (
        seen(ONE, [_HALF], group_pods(_HALF, "node-1", "", ready=False)),
        {"Ready": "False Unschedulable", "CapacityAvailable": "False Unschedulable", "Degraded": "True Unschedulable"},
    ),
    "one pod of a group is not ready": (
        seen(ONE, [_WHOLE], [group_pod(_WHOLE, 0, node="node-1", ready=True), group_pod(_WHOLE, 1, node="node-2")]),
        {"Ready": "False ReplicasStarting", "CapacityAvailable": "True Scheduled"},
    ),
    "a group could not be placed, and is tried again": (
        seen(
            under_way(TWO),
            [group_set(TWO)],
            group_pods(group_set(TWO), "node-1", "node-2"),
        ),
        {
            "CapacityAvailable": "False Unschedulable",
            "Degraded": "True Unschedulable",
            "Serving": "True EndpointsReady",
        },
    ),
    "a rollout of groups has no spare capacity": (
        seen(in_place(TWO, step="Withdraw", deadline=stamp(after(0))), *_old_groups()),
        {
            "Progressing": "True NoSpareCapacity",
            "CapacityAvailable": "False Unschedulable",
            "Ready": "True PreviousRevisionServes",
        },
    ),
}

GROUP_EVENTS: dict[str, Observed] = {
    "a group is withdrawn": _late(),
    "a group is replaced": _on_a_lost_node(),
}
