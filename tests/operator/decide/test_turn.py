"""One visit to a service of groups, case by case: what is made, ended and written down, and what is left alone."""

import copy
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from group_builders import WORDS, after, group_pod, group_pods, group_set, grouped, revision_of_groups, seen, stamp
from group_situations import BEFORE, in_place, under_way
from operator_builders import NOW, SETTINGS, conditions_in, container, service, status_in
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.groups import groups_of
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.operation import LONGEST_PAUSE, pause
from ryzanstein_operator.decide.plan import Apply, CreateKey, Delete, EmitEvent, PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import reconcile

ONE, TWO = grouped(), grouped(replicas=2)
GROUP = group_set(ONE)
NAME = GROUP["metadata"]["name"]


def plan(observed: Observed, now: datetime = NOW) -> Plan:
    return reconcile(observed, SETTINGS, now)


def made(found: Plan) -> list[str]:
    return [action.ref.name for action in found.actions if isinstance(action, Apply) and action.uid is None]


def ended(found: Plan) -> list[str]:
    return [action.ref.name for action in found.actions if isinstance(action, Delete)]


def told(observed: Observed, now: datetime = NOW) -> Observed:
    """The same after the status was written, and nothing else of the plan."""
    statuses = [action.status for action in plan(observed, now).actions if isinstance(action, PatchStatus)]
    return replace(observed, service={**observed.service, "status": statuses[-1]}) if statuses else observed


def record(found: Plan) -> dict[str, Any]:
    operation: dict[str, Any] = status_in(found)["operation"]
    return operation


def index(name: str) -> str:
    return name.rpartition("-")[2]


# --- made ------------------------------------------------------------------------------------------------


def test_the_record_comes_first_then_the_key_then_the_groups() -> None:
    found = plan(seen(TWO))
    kinds = [type(action) for action in found.actions]
    assert kinds == [PatchStatus, CreateKey, Apply, Apply]
    assert [index(name) for name in made(found)] == ["0", "1"]
    assert record(found)["step"] == "Place"
    assert record(found)["target"] == made(found)[0]
    assert record(found)["deadline"] == stamp(after(600))
    assert (record(found)["type"], record(found)["tries"]) == ("Scale", 0)


def test_the_same_picture_gives_the_same_plan_whoever_looks() -> None:
    observed = seen(TWO, [group_set(TWO, 1)])
    assert plan(observed) == plan(copy.deepcopy(observed))
    assert [index(name) for name in made(plan(observed))] == ["0"]


def test_a_name_of_which_a_pod_is_left_is_not_taken_again() -> None:
    left = group_pod(GROUP, 0, node="node-1", due=after(10))
    assert [index(name) for name in made(plan(seen(ONE, (), [left])))] == ["1"]


def test_a_group_that_drains_still_counts_and_one_that_never_will_be_gone_does_not() -> None:
    alone = grouped(disruption={"maxSurge": 0, "maxUnavailable": 1})
    leaving = group_set(alone, leaving=NOW)
    pods = [group_pod(leaving, rank, node=f"node-{rank}", due=after(20)) for rank in (0, 1)]
    drains = plan(seen(alone, [leaving], pods))
    assert made(drains) == []
    assert (record(drains)["step"], record(drains)["target"]) == ("Drain", leaving["metadata"]["name"])
    assert drains.again_after == 50  # 30 s after it should be gone
    assert [index(name) for name in made(plan(seen(alone, [leaving], pods), after(51)))] == ["1"]
    lost = dict.fromkeys(("node-0", "node-1"), "its kubelet is silent")
    assert [index(name) for name in made(plan(seen(alone, [leaving], pods, lost_nodes=lost)))] == ["1"]


def test_a_group_s_stateful_set_that_was_changed_by_hand_is_put_back() -> None:
    edited = copy.deepcopy(GROUP)
    edited["spec"]["replicas"] = 3
    observed = told(seen(ONE, [edited], group_pods(GROUP, "node-1", "node-2")))
    (apply, event) = [action for action in plan(observed).actions if not isinstance(action, PatchStatus)]
    assert isinstance(apply, Apply)
    assert isinstance(event, EmitEvent)
    assert (apply.uid, apply.manifest["spec"]["replicas"]) == (GROUP["metadata"]["uid"], 2)


@pytest.mark.parametrize(("seconds", "expected"), [(9, False), (10, True)])
def test_a_key_that_pods_wait_for_is_made_again(seconds: float, expected: bool) -> None:
    """The write of the key may have failed after the group's was taken, or somebody may have deleted it."""
    waiting = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
    pods = [group_pod(GROUP, rank, node=f"node-{rank}", containerStatuses=[waiting]) for rank in (0, 1)]
    found = plan(told(seen(ONE, [GROUP], pods)), after(seconds))
    assert any(isinstance(action, CreateKey) for action in found.actions) is expected
    if not expected:
        assert found.again_after == 1


# --- withdrawn -----------------------------------------------------------------------------------------------


def half(seconds: float = -600, live: Manifest = ONE) -> Observed:
    """A group of which one pod has a node, made so many seconds ago."""
    group = group_set(live, made=after(seconds))
    pods = (group_pod(group, 0, node="node-1", made=after(seconds)), group_pod(group, 1, made=after(seconds)))
    waits = under_way(live, id="scale-3-1", step="Place", tries=0, target=NAME, deadline=stamp(after(600 + seconds)))
    return seen(waits, [group], pods)


def test_a_withdrawal_is_written_down_before_it_is_done() -> None:
    first = plan(half())
    assert (ended(first), made(first)) == ([], [])
    assert (record(first)["step"], record(first)["target"], record(first)["tries"]) == ("Withdraw", NAME, 1)
    assert WORDS in record(first)["message"]
    assert first.again_after == 0
    assert status_in(first)["lastFailure"]["reason"] == "GroupWithdrawn"
    assert [action.reason for action in first.actions if isinstance(action, EmitEvent)].count("GroupWithdrawn") == 1
    second = plan(told(half()))
    (delete,) = [action for action in second.actions if isinstance(action, Delete)]
    assert (delete.ref.name, delete.uid, delete.foreground) == (NAME, GROUP["metadata"]["uid"], True)
    assert made(second) == []
    assert record(second)["tries"] == 1
    # An operator that died before the delete, and one whose status write was lost, do the same again.
    assert ended(plan(told(told(half())))) in ([NAME], [])
    assert plan(half()) == first


def test_nothing_is_withdrawn_before_its_time() -> None:
    found = plan(half(-599))
    assert ended(found) == []
    assert record(found)["step"] == "Place"
    assert found.again_after == 1


def test_a_group_that_found_its_nodes_meanwhile_is_spared() -> None:
    observed = told(half())
    group = observed.children[-1]
    found = plan(replace(observed, pods=group_pods(group, "node-1", "node-2", ready=False)))
    assert ended(found) == []
    assert record(found)["step"] == "Start"


def test_between_two_tries_nothing_is_made_and_the_scheduler_s_words_stay() -> None:
    waits = under_way(ONE, id="scale-3-1", step="Withdraw", tries=2, target=NAME, deadline=stamp(after(20)))
    found = plan(seen(waits))
    assert made(found) == []
    assert record(found)["step"] == "Pause"
    assert found.again_after == 20
    assert WORDS in conditions_in(found)["CapacityAvailable"]["message"]
    later = plan(seen(waits), after(20))
    assert [index(name) for name in made(later)] == ["0"]
    assert (record(later)["step"], record(later)["tries"]) == ("Place", 2)
    assert WORDS in conditions_in(later)["CapacityAvailable"]["message"]


def test_pauses_double_and_have_an_end() -> None:
    assert [pause(tries).total_seconds() for tries in (1, 2, 3, 6, 60)] == [10, 20, 40, 300, 300]
    assert LONGEST_PAUSE.total_seconds() == 300


def test_another_spec_tries_at_once() -> None:
    waits = under_way(ONE, id="scale-3-1", step="Pause", tries=5, target=NAME, deadline=stamp(after(300)))
    waits["metadata"] = {**waits["metadata"], "generation": 4}
    assert len(made(plan(seen(waits)))) == 1


@pytest.mark.parametrize(
    "change", [{"deadline": "soon"}, {"step": "Dance"}, {"type": "Party"}, {"tries": -1}, {"more": 1}]
)
def test_a_record_that_cannot_be_read_is_none(change: dict[str, Any]) -> None:
    waits = under_way(ONE, id="scale-3-1", **change)
    assert len(made(plan(seen(waits)))) == 1


def test_an_exchange_of_a_pod_in_good_time_starts_no_clock() -> None:
    pods = [group_pod(GROUP, 0, node="node-1"), group_pod(GROUP, 1, node="node-2", ready=True, due=after(100))]
    (group,) = groups_of(seen(ONE, [GROUP], pods))
    assert group.waits_since is None
    (group,) = groups_of(seen(ONE, [GROUP], [group_pod(GROUP, 0, node="node-1", changed=after(70))]))
    assert group.waits_since == after(70)


def two_halves(first: float, second: float, **operation: Any) -> Observed:
    """Two groups that wait for nodes: the first has got one, the second none. Seconds: when each was made."""
    groups = [group_set(TWO, 0, made=after(first)), group_set(TWO, 1, made=after(second))]
    pods = [group_pod(groups[0], rank, node=("node-1", "")[rank], made=after(first)) for rank in (0, 1)]
    pods += [group_pod(groups[1], rank, made=after(second)) for rank in (0, 1)]
    live = under_way(TWO, **{"id": "scale-3-2", "step": "Place", "tries": 0, **operation})
    return seen(live, groups, pods)


def test_of_two_that_wait_the_one_nearer_to_whole_is_kept_and_gets_time_of_its_own() -> None:
    names_ = [group_set(TWO, number)["metadata"]["name"] for number in (0, 1)]
    both = two_halves(-700, -700, target=names_[0], deadline=stamp(after(-100)))
    assert record(plan(both))["target"] == names_[1]
    assert ended(plan(told(both))) == [names_[1]]
    alone = told(told(both))
    alone = replace(alone, children=alone.children[:-1], pods=alone.pods[:2])
    found = plan(alone)
    assert ended(found) == []
    assert (record(found)["step"], record(found)["target"]) == ("Place", names_[0])
    assert record(found)["deadline"] == stamp(after(600))
    assert ended(plan(told(alone), after(599))) == []


def test_what_is_written_down_is_done_before_anything_else_is_written_down() -> None:
    names_ = [group_set(TWO, number)["metadata"]["name"] for number in (0, 1)]
    both = two_halves(-700, -700, step="Withdraw", target=names_[0], tries=1, deadline=stamp(after(10)))
    assert ended(plan(both)) == [names_[0]]


def test_after_a_failure_groups_are_not_made_to_compete_for_nodes() -> None:
    three = under_way(grouped(replicas=3), id="scale-3-3", tries=1, deadline=stamp(NOW))
    assert len(made(plan(seen(three)))) == 1
    waits = [group_pod(group_set(ONE), rank, made=NOW) for rank in (0, 1)]
    assert made(plan(seen(three, [group_set(ONE)], waits))) == []
    assert len(made(plan(seen(three, [group_set(ONE)], group_pods(group_set(ONE), "a", "b", ready=False))))) == 1


# --- rolled out ------------------------------------------------------------------------------------------------


def old_groups(*ready: bool) -> tuple[list[Manifest], list[Manifest]]:
    groups = [group_set(BEFORE, number, made=after(number - 900)) for number in range(len(ready))]
    pods = [
        pod
        for number, group in enumerate(groups)
        for pod in group_pods(group, f"node-{2 * number}", f"node-{2 * number + 1}", ready=ready[number])
    ]
    return groups, pods


def test_a_new_revision_comes_as_surge() -> None:
    found = plan(seen(TWO, *old_groups(True, True)))
    assert len(made(found)) == 1
    assert ended(found) == []
    assert record(found)["id"] == f"rollout-{revision_of_groups(TWO)}"
    assert conditions_in(found)["Progressing"]["reason"] == "RollingOut"


@pytest.mark.parametrize(
    ("old", "new_ready", "disruption", "gone"),
    [
        ((True, True), True, {}, ["0"]),  # the oldest
        ((True, False), True, {}, ["1"]),  # what does not serve first
        ((True, False), False, {}, []),  # it may be needed yet
        ((True, True), False, {"maxUnavailable": 1}, ["0"]),
        ((False, False), True, {}, ["0"]),
    ],
)
def test_an_old_group_goes_when_it_can_be_spared(
    old: tuple[bool, ...], new_ready: bool, disruption: Manifest, gone: list[str]
) -> None:
    live = grouped(replicas=2, disruption=disruption)
    groups, pods = old_groups(*old)
    new = group_set(live)
    observed = seen(live, [*groups, new], [*pods, *group_pods(new, "node-8", "node-9", ready=new_ready)])
    assert [index(name) for name in ended(plan(observed))] == gone


def test_without_spare_capacity_the_oldest_is_drained_first_and_nothing_is_made_meanwhile() -> None:
    groups, pods = old_groups(True, True)
    new = group_set(TWO, made=after(-600))
    wait = [group_pod(new, rank, made=after(-600)) for rank in (0, 1)]
    record_ = {"id": f"rollout-{revision_of_groups(TWO)}", "type": "Rollout", "step": "Place", "tries": 0}
    live = under_way(TWO, **record_, target=new["metadata"]["name"], deadline=stamp(NOW))
    first = seen(live, [*groups, new], [*pods, *wait])
    assert record(plan(first))["id"].endswith("-in-place")
    second = plan(told(first))
    assert ended(second) == [new["metadata"]["name"], groups[0]["metadata"]["name"]]
    assert made(second) == []
    assert conditions_in(second)["Progressing"]["reason"] == "NoSpareCapacity"
    # The drained one gone, its successor comes; the other old one stays until that one serves.
    third = plan(seen(in_place(TWO, step="Drain", tries=1), groups[1:], pods[2:]))
    assert (len(made(third)), ended(third)) == (1, [])


def test_a_group_of_which_no_pod_is_seen_may_be_getting_them_right_now() -> None:
    live = grouped(disruption={"maxSurge": 0, "maxUnavailable": 1})
    found = plan(seen(live, [group_set(BEFORE)]))
    assert (len(ended(found)), made(found)) == (1, [])


def test_a_newer_spec_begins_with_surge_again() -> None:
    newest = grouped(replicas=2, engine={"maxNumSeqs": 64})
    live = {**newest, "status": in_place(TWO)["status"]}
    found = plan(seen(live, *old_groups(True, True)))
    assert record(found)["id"] == f"rollout-{revision_of_groups(newest)}"
    assert len(made(found)) == 1


# --- replaced ----------------------------------------------------------------------------------------------------


def test_a_group_with_a_pod_that_does_not_go_is_replaced_whole() -> None:
    pods = [group_pod(GROUP, 0, node="node-1"), group_pod(GROUP, 1, node="node-2", due=after(-30))]
    found = plan(seen(ONE, [GROUP], pods))
    assert ended(found) == [NAME]
    assert [index(name) for name in made(found)] == ["1"]
    failure = status_in(found)["lastFailure"]
    assert (failure["reason"], failure["target"]) == ("GroupReplaced", NAME)
    assert "does not go from node node-2" in failure["message"]
    again = told(seen(ONE, [GROUP], pods))  # the delete was refused: not another Event, and the failure keeps its time
    assert "GroupReplaced" not in [
        event.reason for event in plan(again, after(5)).actions if isinstance(event, EmitEvent)
    ]


def test_a_pod_whose_stateful_set_is_gone_is_ended_by_its_uid_after_a_while() -> None:
    left = group_pod(GROUP, 0, node="node-1", made=after(-59))
    waits = plan(seen(ONE, [group_set(ONE, 1)], [left]))
    assert ended(waits) == []
    (delete,) = [a for a in plan(seen(ONE, [group_set(ONE, 1)], [left]), after(1)).actions if isinstance(a, Delete)]
    assert (delete.ref.kind, delete.ref.name, delete.uid) == ("Pod", f"{NAME}-0", left["metadata"]["uid"])


def test_a_pod_of_an_older_stateful_set_of_the_same_name_is_no_member() -> None:
    stranger = group_pod({**GROUP, "metadata": {**GROUP["metadata"], "uid": "another"}}, 1, node="node-2", ready=True)
    observed = seen(ONE, [GROUP], [group_pod(GROUP, 0, node="node-1", ready=True), stranger])
    (group,) = groups_of(observed)
    assert not group.ready
    assert [member.name for member in group.members] == [f"{NAME}-0"]
    assert conditions_in(plan(observed))["Ready"]["status"] == "False"


# --- said --------------------------------------------------------------------------------------------------------


def test_a_replica_counts_once_and_its_nodes_all() -> None:
    status = status_in(plan(seen(ONE, [GROUP], group_pods(GROUP, "node-2", "node-1"))))
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (1, 1, 1)
    assert status["nodes"] == ["node-1", "node-2"]
    assert status["selector"].endswith("apps.kubernetes.io/pod-index=0")


def test_the_culprit_is_named_and_not_the_witness() -> None:
    killed = container(waiting={"reason": "Error"}, ended={"exitCode": 137, "reason": "Error"})
    witness = container(waiting={"reason": "Error"}, ended={"exitCode": 70, "message": "Rank 1 of node 1 is gone."})
    pods = [
        group_pod(GROUP, 0, node="node-1", containerStatuses=[witness]),
        group_pod(GROUP, 1, node="node-2", containerStatuses=[killed]),
    ]
    message = conditions_in(plan(seen(ONE, [GROUP], pods)))["Degraded"]["message"]
    assert message.startswith(f"{NAME}-1: container worker ended with exit code 137")


def test_a_group_that_has_its_nodes_and_never_serves_stalls_the_rollout() -> None:
    groups, pods = old_groups(True)
    live = grouped()
    new = group_set(live, made=after(-1800))
    start = {"id": f"rollout-{revision_of_groups(live)}", "type": "Rollout", "step": "Start", "tries": 0}
    live = under_way(live, **start, target=new["metadata"]["name"], deadline=stamp(NOW))
    conditions = conditions_in(
        plan(seen(live, [*groups, new], [*pods, *group_pods(new, "node-8", "node-9", ready=False)]))
    )
    assert conditions["Progressing"]["reason"] == "RolloutStalled"
    assert conditions["Ready"]["reason"] == "PreviousRevisionServes"


def test_a_spec_that_cannot_be_run_touches_no_group_and_keeps_the_record() -> None:
    live = under_way(ONE)
    live["spec"] = {**live["spec"], "surprise": 1}
    found = plan(seen(under_way(ONE), [GROUP], group_pods(GROUP, "node-1", "node-2")))
    bad = plan(replace(seen(under_way(ONE), [GROUP], group_pods(GROUP, "node-1", "node-2")), service=live))
    assert (made(bad), ended(bad)) == ([], [])
    assert status_in(bad)["operation"] == live["status"]["operation"]
    assert status_in(bad)["replicas"] == 1
    assert found != bad


def test_one_pod_a_replica_has_no_use_for_a_group_s_stateful_set() -> None:
    single = service()
    stale = {**group_set(ONE), "metadata": {**group_set(ONE)["metadata"], "name": "chat-left"}}
    assert ended(plan(Observed(single, children=(stale,), services=(single,)))) == ["chat-left"]


def test_a_replacement_that_is_put_on_the_lost_node_again_is_replaced_ever_more_slowly() -> None:
    lost = {"node-1": "its kubelet is silent"}
    left = group_set(ONE, 0, made=after(-900), leaving=after(-5))
    new = group_set(ONE, 1, made=after(-9))
    pods = [
        group_pod(left, 0, node="node-1", due=after(100)),
        *group_pods(new, "node-1", "node-2", ready=False, made=after(-9)),
    ]
    found = plan(seen(ONE, [left, new], pods, lost_nodes=lost))
    assert (ended(found), made(found)) == ([], [])
    assert found.again_after == 1
    assert ended(plan(seen(ONE, [left, new], pods, lost_nodes=lost), after(1))) == [new["metadata"]["name"]]
