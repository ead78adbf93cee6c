"""The tree tells of every service what runs, on which nodes, how well, and what to do about what is not."""

import copy
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

import operator_builders as build
from kubectl_world import ALL_WELL, ago, condition
from ryzanstein_kubectl.model.build import tree
from ryzanstein_kubectl.model.pages import Counters, Load, Rank, StatusPage
from ryzanstein_kubectl.model.rates import History
from ryzanstein_kubectl.model.snapshot import PodKey, Snapshot
from ryzanstein_kubectl.model.tree import Service
from ryzanstein_kubectl.view.scaling_view import scaling_lines
from ryzanstein_kubectl.view.tree_view import spans, tree_view
from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import BLOCKED, BROKEN, REASONS, Reason
from ryzanstein_operator.desired.names import LABEL_REVISION
from ryzanstein_worker import contract

Manifest = dict[str, Any]


def service(name: str = "chat", *, conditions: tuple[Manifest, ...] = ALL_WELL, **spec: Any) -> Manifest:
    return {**build.service(name, **spec), "status": {"conditions": list(conditions)}}


def snapshot(live: Manifest, *pods: Manifest, **more: Any) -> Snapshot:
    return Snapshot(taken=build.NOW, services=(live,), pods=pods, **more)


def page(*ranks: Rank, fault: str = "") -> StatusPage:
    return StatusPage("serving", "", "e1", Load(3, 1, 0.5), ranks, fault)


def only(found: tuple[Service, ...]) -> Service:
    (one,) = found
    return one


def shown(snap: Snapshot, *, width: int = 200, plain: bool = False) -> str:
    out = StringIO()
    view = tree_view(tree(snap), snap.notes, plain=plain)
    Console(file=out, width=width, markup=False, highlight=False).print(view)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def grouped(live: Manifest, name: str, count: int) -> list[Manifest]:
    pods = [build.ready_pod(live, f"{name}-{index}", node=f"node-{index}") for index in range(count)]
    for index, pod in enumerate(pods):
        pod["metadata"]["labels"] |= {contract.LABEL_GROUP: name, contract.LABEL_POD_INDEX: str(index)}
    return pods


def test_a_pod_is_a_replica_with_its_load_and_ranks() -> None:
    live = service(replicas=1)
    ranks = (Rank(0, 0, "idle", 0.1), Rank(1, 0, "step", 0.1))
    found = only(tree(snapshot(live, build.ready_pod(live), pages={PodKey("team", "chat-a"): page(*ranks)})))
    (revision,) = found.revisions
    (replica,) = revision.replicas
    assert (found.ready, found.wanted, revision.current, replica.group) == (1, 1, True, False)
    assert replica.load == Load(3, 1, 0.5)
    assert (replica.pods[0].state, replica.pods[0].node, replica.pods[0].ranks) == ("Ready", "node-1", ranks)
    assert found.mood == "good"


def test_a_group_is_one_replica_and_its_ranks_stand_under_their_pods() -> None:
    live = service(replicas=1)
    ranks = tuple(Rank(rank, rank // 2, "idle", 0.1) for rank in range(4))
    pods = grouped(live, "chat-abc123-0", 2)
    snap = snapshot(live, *pods, pages={PodKey("team", "chat-abc123-0-0"): page(*ranks)})
    found = only(tree(snap))
    (replica,) = found.revisions[0].replicas
    assert (found.ready, replica.name, replica.group, replica.ready) == (1, "chat-abc123-0", True, True)
    assert [[rank.rank for rank in pod.ranks] for pod in replica.pods] == [[0, 1], [2, 3]]
    text = shown(snap)
    assert "ranks 0-1" in text
    assert "ranks 2-3" in text


def test_a_group_without_its_leader_is_not_ready() -> None:
    live = service(replicas=1)
    (replica,) = only(tree(snapshot(live, grouped(live, "chat-abc123-0", 2)[1]))).revisions[0].replicas
    assert (replica.ready, replica.load) == (False, None)


def test_the_current_revision_is_the_workloads_and_without_that_right_the_newest_pods() -> None:
    live = service(replicas=2)
    old, new = build.ready_pod(live, "chat-old", revision="old"), build.ready_pod(live, "chat-new", revision="new")
    old["metadata"]["creationTimestamp"], new["metadata"]["creationTimestamp"] = ago(900), ago(9)
    by_pods = only(tree(snapshot(live, old, new)))
    assert [(revision.name, revision.current) for revision in by_pods.revisions] == [("new", True), ("old", False)]
    deployment = copy.deepcopy(build.desired(live)["Deployment"])
    deployment["spec"]["template"]["metadata"]["labels"][LABEL_REVISION] = "old"  # rolled back
    by_workload = only(tree(snapshot(live, old, new, workloads=(deployment,))))
    assert [revision.name for revision in by_workload.revisions] == ["old", "new"]


def test_a_silent_rank_stands_out_and_the_others_share_a_line() -> None:
    live = service(replicas=1)
    ranks = (Rank(0, 0, "idle", 0.1), Rank(1, 0, "step", 9.0), Rank(2, 0, "idle", 0.1))
    text = shown(snapshot(live, build.ready_pod(live), pages={PodKey("team", "chat-a"): page(*ranks)}))
    assert "ranks 0, 2" in text
    assert "step, silent for 9s" in text


def test_a_broken_pod_says_why_and_a_bad_node_is_named() -> None:
    live = service()
    silent = {"name": "node-1", "reason": "NodeUnreachable", "message": "its kubelet is silent", "since": ago(20)}
    live["status"]["unhealthyNodes"] = [silent]
    ended = build.container(waiting={"reason": "CrashLoopBackOff"}, ended={"exitCode": 70, "message": "rank 1 died"})
    text = shown(snapshot(live, build.broken_pod(live, ended)))
    assert "CrashLoop" in text
    assert "node-1 (NodeUnreachable)" in text
    assert "its kubelet is silent" in text
    assert "exit code 70 (a rank was lost): rank 1 died" in text


def test_a_node_that_is_cordoned_tainted_or_not_ready_is_named_so() -> None:
    live = service(replicas=3)
    pods = [build.ready_pod(live, f"chat-{index}", node=f"node-{index}") for index in range(3)]
    nodes = {
        "node-0": {"spec": {"unschedulable": True}},
        "node-1": {"spec": {"taints": [{"key": contract.TAINT_UNHEALTHY, "value": "AcceleratorFault"}]}},
        "node-2": {"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
    }
    (revision,) = only(tree(snapshot(live, *pods, nodes=nodes))).revisions
    states = [replica.pods[0].node_state for replica in revision.replicas]
    assert states == ["Cordoned", "AcceleratorFault", "NodeNotReady"]


def test_what_a_worker_says_of_its_accelerator_is_shown() -> None:
    live = service(replicas=1)
    pages = {PodKey("team", "chat-a"): page(fault="GPU 3 reports XID 79: fallen off the bus")}
    text = shown(snapshot(live, build.ready_pod(live), pages=pages))
    assert "AcceleratorFault" in text
    assert "XID 79" in text


def test_conditions_of_one_reason_stand_together_with_the_remedy_and_what_is_well_is_left_out() -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    live = service(
        conditions=(
            condition("Ready", "False", "Unschedulable", f"0 of 2 replicas are ready: {message}"),
            condition("Serving", "True", "EndpointsReady", "1 replica answers"),
            condition("CapacityAvailable", "False", "Unschedulable", message),
            condition("Progressing", "True", "RollingOut", "1 of 2"),
        )
    )
    found = only(tree(snapshot(live)))
    assert [(concern.reason, concern.mood) for concern in found.concerns] == [
        ("Unschedulable", "bad"),
        ("RollingOut", "waiting"),
    ]
    assert found.concerns[0].conditions == ("Ready=False", "CapacityAvailable=False")
    assert found.concerns[0].messages == (f"0 of 2 replicas are ready: {message}",)
    assert found.concerns[0].remedy
    assert found.concerns[0].remedy.replace("`", "") in " ".join(shown(snapshot(live), width=1000).split())


_SCALING = (ConditionType.SCALING_ACTIVE, ConditionType.SCALING_LIMITED)
_BAD = {*BROKEN, *BLOCKED, Reason.MODEL_NAME_TAKEN, Reason.ROLLOUT_STALLED, Reason.STUCK_TERMINATING}
_FINE = {
    Reason.ALL_REPLICAS_READY,
    Reason.ENDPOINTS_READY,
    Reason.PREVIOUS_REVISION_SERVES,
    Reason.ROLLOUT_COMPLETE,
    Reason.IN_IMAGE,
    Reason.ON_CLAIM,
    Reason.DOWNLOADED,
    Reason.SCHEDULED,
    Reason.AS_EXPECTED,
    Reason.SCALED_TO_ZERO,
    Reason.SCALING_UP,
}
_MAY_WORRY = [
    (kind, reason) for kind, found in REASONS.items() for reason in found if reason not in _FINE if kind not in _SCALING
]


@pytest.mark.parametrize(("kind", "reason"), _MAY_WORRY)
def test_every_reason_that_the_operator_may_give_is_told_apart(kind: ConditionType, reason: Reason) -> None:
    """What is on its way from what is broken: a reason that is new to the operator must be new here."""
    status = "True" if kind == ConditionType.DEGRADED else "False"
    if kind == ConditionType.PROGRESSING and reason not in _BAD:
        status = "True"
    (concern,) = only(tree(snapshot(service(conditions=(condition(kind, status, reason),))))).concerns
    assert concern.mood == ("bad" if reason in _BAD else "waiting")


def autoscaled() -> Manifest:
    live = service(
        autoscaling={"minReplicas": 0, "maxReplicas": 4, "targets": [{"metric": "WaitingRequests", "value": 5}]}
    )
    told = {"metric": "WaitingRequests", "value": "12", "target": "5", "message": "because"}
    live["status"] |= {"desiredReplicas": 3, "autoscaling": told}
    return live


def test_a_size_that_follows_the_load_is_shown_with_what_chose_it() -> None:
    live = autoscaled()
    found = only(tree(snapshot(live, build.ready_pod(live))))
    assert (found.ready, found.wanted) == (1, 3)
    text = shown(snapshot(live, build.ready_pod(live)))
    assert "1/3 ready" in text
    assert "autoscaling 0-4 WaitingRequests 12 (target 5)" in " ".join(text.split())
    assert scaling_lines([live, service()]) == ("chat: 3 wanted of 0-4, WaitingRequests 12 (target 5)",)


def test_zero_that_the_load_came_to_is_no_concern() -> None:
    live = autoscaled()
    live["status"] |= {"desiredReplicas": 0, "conditions": [condition("Ready", "False", "ScaledToZero")]}
    found = only(tree(snapshot(live)))
    assert (found.concerns, found.mood, found.wanted) == ((), "good", 0)


@pytest.mark.parametrize(
    ("kind", "status", "reason", "mood"),
    [
        ("ScalingActive", "False", "MetricsUnavailable", "bad"),
        ("ScalingActive", "Unknown", "Pending", "waiting"),
        ("ScalingActive", "True", "MetricsRead", None),
        ("ScalingActive", "True", "AtZero", None),
        ("ScalingActive", "False", "NotConfigured", None),
        ("ScalingLimited", "True", "CapacityUnavailable", "waiting"),
        ("ScalingLimited", "True", "AtMaximum", "waiting"),
        ("ScalingLimited", "True", "AtMinimum", None),
        ("ScalingLimited", "True", "AcceleratorBudget", None),
        ("ScalingLimited", "True", "RateLimited", None),
        ("ScalingLimited", "True", "Stabilizing", None),
        ("ScalingLimited", "Unknown", "Pending", None),
        ("ScalingLimited", "False", "WithinBounds", None),
        ("ScalingLimited", "False", "NotConfigured", None),
    ],
)
def test_of_scaling_only_what_somebody_may_want_to_change_is_a_concern(
    kind: ConditionType, status: str, reason: Reason, mood: str | None
) -> None:
    found = only(tree(snapshot(service(conditions=(condition(kind, status, reason),))))).concerns
    assert [concern.mood for concern in found] == ([mood] if mood else [])


def test_a_reason_of_another_version_is_shown_as_it_is() -> None:
    live = service(conditions=(condition("Ready", "False", "FromTheFuture", "no idea"),))
    (concern,) = only(tree(snapshot(live))).concerns
    assert (concern.reason, concern.mood, concern.remedy) == ("FromTheFuture", "bad", "")


def test_zero_replicas_that_were_asked_for_are_no_concern() -> None:
    live = service(replicas=0, conditions=(condition("Ready", "False", "ScaledToZero"),))
    found = only(tree(snapshot(live)))
    assert (found.concerns, found.mood) == ((), "good")


def test_a_service_that_nobody_looks_after_says_so() -> None:
    live = build.service(created=(build.NOW - timedelta(hours=1)).isoformat())
    (concern,) = only(tree(snapshot(live))).concerns
    assert (concern.reason, concern.mood) == ("NoStatus", "bad")
    assert "operator" in concern.remedy


def test_the_operation_under_way_and_the_last_failure_are_told() -> None:
    live = service()
    deadline = (build.NOW + timedelta(seconds=90)).isoformat()
    live["status"] |= {
        "operation": {
            "type": "Rollout",
            "step": "Exchange",
            "target": "chat-1-0",
            "tries": 2,
            "deadline": deadline,
            "message": "m",
        },
        "lastFailure": {
            "time": build.NOW.isoformat(),
            "reason": "NodeUnreachable",
            "message": "silent",
            "target": "n1",
        },
    }
    text = shown(snapshot(live))
    assert "Rollout: Exchange of chat-1-0, try 2, 90s left" in text
    assert "Last failure, 0s ago: NodeUnreachable of n1: silent" in text


def test_a_terminal_without_unicode_gets_plain_signs_and_a_narrow_one_whole_numbers() -> None:
    live = service(replicas=1)
    name = "chat-with-a-very-long-name-of-its-own"
    snap = snapshot(live, build.ready_pod(live, name), pages={PodKey("team", name): page()})
    assert shown(snap, plain=True).isascii()
    narrow = shown(snap, width=72)
    assert all(len(line) <= 72 for line in narrow.splitlines())
    assert len(narrow.splitlines()) == len(shown(snap).splitlines())
    assert "50%" in narrow
    assert "…" in narrow


def test_no_services_say_where_to_look() -> None:
    assert "-A shows all" in shown(Snapshot(taken=build.NOW))


def test_neighbouring_ranks_are_drawn_together() -> None:
    assert spans([7, 0, 1, 2, 5]) == "0-2, 5, 7"


def test_rates_start_anew_with_a_worker_that_was_started_anew() -> None:
    live, history = service(replicas=1), History()
    pod, key = build.ready_pod(live), PodKey("team", "chat-a")

    def take(seconds: int, tokens: float) -> float | None:
        read = Counters(Load(0, 0, 0.0), tokens, ((1.0, tokens), (float("inf"), tokens)))
        snap = Snapshot(build.NOW + timedelta(seconds=seconds), (live,), pods=(pod,), counters={key: read})
        (row,) = history.take(snap)
        return row.tokens_per_second

    assert [take(0, 100), take(2, 150), take(4, 20), take(6, 40)] == [None, 25.0, None, 10.0]
    (gone,) = history.take(Snapshot(build.NOW + timedelta(seconds=8), (live,), pods=(pod,)))
    assert (gone.load, gone.tokens_per_second, gone.ttft_p50_seconds) == (None, None, None)
