"""Which size is in force: the decision's, else what stands; never less for want of knowledge."""

import copy
from dataclasses import replace

import pytest

from group_builders import group_set, grouped, seen
from operator_builders import (
    NOW,
    SETTINGS,
    live_children,
    parsed,
    pod,
    ready_pod,
    service,
    settled,
    status_in,
    unscheduled_pod,
)
from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.looked import look
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.plan import Apply, EmitEvent, PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import reconcile
from ryzanstein_operator.decide.size import held, in_force
from ryzanstein_operator.decide.sizing import Decision, Memory
from scaling_situations import TARGET, autoscaled, decided, serving, waiting

UP = {"maxReplicas": 4, "targets": [TARGET]}


def plan(observed: Observed) -> Plan:
    return reconcile(observed, SETTINGS, NOW)


def to(replicas: int, why: Reason = Reason.METRICS_READ) -> Decision:
    return Decision(replicas, replicas, Memory(), why, "because", metric="WaitingRequests", value="15", target="5")


def deployed(plan: Plan) -> int | None:
    found = [one.manifest for one in plan.actions if isinstance(one, Apply) and one.manifest["kind"] == "Deployment"]
    return found[0]["spec"]["replicas"] if found else None


def standing(live: Manifest, replicas: int) -> Observed:
    return replace(settled(live), children=live_children(live, replicas))


@pytest.mark.parametrize(("lowest", "size"), [(0, 1), (1, 1), (3, 3)])
def test_a_new_service_begins_with_its_minimum_and_one_at_least(lowest: int, size: int) -> None:
    live = service(autoscaling={**UP, "minReplicas": lowest})
    made = plan(Observed(live))
    assert deployed(made) == size
    assert status_in(made)["desiredReplicas"] == size


@pytest.mark.parametrize(
    ("status", "live", "size"),
    [
        ({"desiredReplicas": 3, "autoscaling": {}}, 2, 3),
        ({"desiredReplicas": 0, "autoscaling": {"metric": ""}}, 2, 0),
        ({"desiredReplicas": 3}, 2, 3),
        ({"desiredReplicas": 0}, 2, 2),
        ({}, 2, 2),
        (None, 2, 2),
    ],
)
def test_what_stands_is_held(status: Manifest | None, live: int, size: int) -> None:
    found = {**service(autoscaling=UP), "status": status}
    autoscaling = parsed(found).spec.autoscaling
    assert autoscaling is not None
    assert held(standing(found, live), autoscaling) == size


def test_of_groups_those_count_that_stand_where_the_status_is_lost() -> None:
    live = grouped(autoscaling=UP)
    groups = [group_set(live, 0), group_set(live, 1)]
    assert in_force(seen(live, groups, ()), parsed(live)) == 2


def test_the_decision_is_written_down_before_it_is_brought_about_and_the_spec_is_not_touched() -> None:
    live = autoscaled(1)
    observed = replace(serving(live, 1), decision=to(3))
    before = copy.deepcopy(live["spec"])
    made = plan(observed)
    kinds = [type(action) for action in made.actions]
    assert deployed(made) == 3
    assert kinds.index(PatchStatus) < kinds.index(Apply)
    assert live["spec"] == before
    assert status_in(made)["desiredReplicas"] == 3
    assert status_in(made)["autoscaling"] == {
        "metric": "WaitingRequests",
        "value": "15",
        "target": "5",
        "message": "because",
        "lastScaleTime": "2026-01-02T03:04:05Z",
    }
    (event,) = [one for one in made.actions if isinstance(one, EmitEvent) and one.reason == Reason.RESCALED]
    assert event.message == "1 to 3 replicas: WaitingRequests is 15, to be kept at 5"


def test_the_same_size_again_is_no_change() -> None:
    live = autoscaled(3)
    observed = replace(serving(live, 3), decision=to(3))
    first = status_in(plan(observed))
    again = plan(replace(observed, service={**live, "status": first}))
    assert "lastScaleTime" not in first["autoscaling"]
    assert again.actions == ()


def test_a_size_set_by_hand_is_put_back() -> None:
    observed = replace(standing(autoscaled(2), 7), decision=to(2))
    assert deployed(plan(observed)) == 2


def test_a_spec_that_cannot_be_read_leaves_size_and_status_as_they_are() -> None:
    live = autoscaled(3)
    live["status"]["autoscaling"] = {"metric": "WaitingRequests", "value": "15", "target": "5", "message": "so"}
    broken = {**live, "spec": {**live["spec"], "engine": {"maxNumSeqs": -1}}}
    made = plan(replace(serving(live, 3), service=broken))
    assert deployed(made) is None
    status = status_in(made)
    assert status["desiredReplicas"] == 3
    assert status["autoscaling"]["value"] == "15"


def test_without_autoscaling_what_was_told_of_it_goes() -> None:
    live = {**service(replicas=2), "status": {"desiredReplicas": 4, "autoscaling": {"metric": "WaitingRequests"}}}
    status = status_in(plan(standing(live, 4)))
    assert status["desiredReplicas"] == 2
    assert "autoscaling" not in status


def test_what_has_no_node_is_counted_once_the_scheduler_has_said_so() -> None:
    live = autoscaled(3)
    found = look(serving(live, 1, pod(live, "new", node="")), parsed(live), _of(live), NOW)
    assert (found.current, found.ready, found.unplaced, found.ranks) == (3, 1, 0, 0)
    words = "0/2 nodes are available"
    found = look(serving(live, 1, unscheduled_pod(live, words, "chat-x")), parsed(live), _of(live), NOW)
    assert (found.unplaced, found.unplaced_words) == (1, f"chat-x: {words}")


def _of(live: Manifest) -> Autoscaling:
    found = parsed(live).spec.autoscaling
    assert found is not None
    return found


@pytest.mark.parametrize(("ready_then", "ready_now", "expected"), [(2, 2, "True"), (2, 3, "True"), (3, 2, "False")])
def test_ready_stays_while_it_grows_and_none_of_those_before_is_missing(
    ready_then: int, ready_now: int, expected: str
) -> None:
    live = autoscaled(4)
    live["status"]["readyReplicas"] = ready_then
    observed = decided(serving(live, ready_now, pod(live, "chat-x")), ready=ready_now, samples=waiting(20))
    conditions = {one["type"]: one for one in status_in(plan(observed))["conditions"]}
    assert conditions["Ready"]["status"] == expected
    assert conditions["Degraded"]["status"] == "False"


def test_the_first_replica_after_zero_is_waited_for() -> None:
    live = autoscaled(1, ready=False, minReplicas=0)
    observed = decided(settled(live, pod(live)), ready=0, samples=waiting(1))
    conditions = {one["type"]: one for one in status_in(plan(observed))["conditions"]}
    assert conditions["Ready"]["reason"] == "ReplicasStarting"


def test_a_fixed_size_is_ready_only_when_it_is_there() -> None:
    live = {**service(replicas=3), "status": {"conditions": [{"type": "Ready", "status": "True"}], "readyReplicas": 2}}
    observed = settled(live, *(ready_pod(live, f"chat-{letter}") for letter in "ab"), pod(live, "chat-x"))
    conditions = {one["type"]: one for one in status_in(plan(observed))["conditions"]}
    assert conditions["Ready"]["status"] == "False"
