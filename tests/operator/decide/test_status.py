"""The status: its fields, its dates, and the Events that tell of its changes."""

import copy
from dataclasses import replace
from datetime import timedelta

import pytest

from operator_builders import (
    NOW,
    SETTINGS,
    broken_pod,
    conditions_in,
    container,
    deployment_says,
    pod,
    ready_pod,
    service,
    settled,
    status_in,
    unscheduled_pod,
)
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.plan import EmitEvent, PatchStatus
from ryzanstein_operator.decide.reconcile import reconcile

TWO = service(replicas=2)
WELL = settled(TWO, ready_pod(TWO, "a", node="n2"), ready_pod(TWO, "b", node="n1"))
STARTING = settled(TWO, pod(TWO, "a"), pod(TWO, "b"))
KILLED = settled(TWO, ready_pod(TWO, "a"), broken_pod(TWO, container(ended={"exitCode": 70}), "b"))
LATER = NOW + timedelta(hours=1)


def after(before: Observed, now: Observed) -> Observed:
    """`now`, with the status that `before` left."""
    status = status_in(reconcile(before, SETTINGS, NOW))
    return replace(now, service={**now.service, "status": status})


def events(observed: Observed) -> list[str]:
    actions = reconcile(observed, SETTINGS, LATER).actions
    return [f"{action.type} {action.reason}" for action in actions if isinstance(action, EmitEvent)]


def test_the_status_tells_counts_names_and_places() -> None:
    status = status_in(reconcile(WELL, SETTINGS, NOW))
    del status["conditions"]
    assert status == {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 2,
        "desiredReplicas": 2,
        "updatedReplicas": 2,
        "selector": "ryzanstein.dev/inference-service=chat,ryzanstein.dev/role=worker",
        "url": "http://gateway.release/v1",
        "model": {"name": "chat", "uri": "demo://"},
        "nodes": ["n1", "n2"],
        "unhealthyNodes": [],
    }


def test_a_condition_is_dated_anew_only_when_its_status_changes() -> None:
    conditions = conditions_in(reconcile(after(WELL, KILLED), SETTINGS, LATER))
    assert conditions["Ready"]["lastTransitionTime"] == "2026-01-02T04:04:05Z"
    assert conditions["Degraded"]["lastTransitionTime"] == "2026-01-02T04:04:05Z"
    assert conditions["Serving"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert conditions["Serving"]["message"] == "1 replica answers requests"


def test_a_new_generation_is_told_without_a_new_date() -> None:
    edited = copy.deepcopy(WELL.service)
    edited["metadata"]["generation"] = 4
    conditions = conditions_in(reconcile(after(WELL, replace(WELL, service=edited)), SETTINGS, LATER))
    assert {condition["observedGeneration"] for condition in conditions.values()} == {4}
    assert {condition["lastTransitionTime"] for condition in conditions.values()} == {"2026-01-02T03:04:05Z"}


def test_the_status_is_written_by_uid_and_says_why() -> None:
    (patch,) = [
        action
        for action in reconcile(after(STARTING, WELL), SETTINGS, LATER).actions
        if isinstance(action, PatchStatus)
    ]
    assert patch.uid == "uid-team-chat"
    assert "readyReplicas" in str(patch)


def test_an_endless_message_is_cut() -> None:
    long = settled(TWO, unscheduled_pod(TWO, "no " * 2000, "a"))
    conditions = conditions_in(reconcile(long, SETTINGS, NOW))
    assert len(conditions["CapacityAvailable"]["message"]) == 1024
    assert conditions["CapacityAvailable"]["message"].endswith(" ...")


UNSCHEDULED = settled(TWO, ready_pod(TWO, "a"), unscheduled_pod(TWO, "no room", "b"))
STALLED = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
HUB = service(model={"uri": "hf://a/b"})
DOWNLOADING = settled(HUB, pod(HUB, initContainerStatuses=[{"name": "fetch", "state": {"running": {}}}]))
DOWNLOADED = settled(HUB, pod(HUB, initContainerStatuses=[{"name": "fetch", "state": {"terminated": {"exitCode": 0}}}]))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (STARTING, STARTING, []),
        (STARTING, WELL, ["Normal AllReplicasReady"]),
        (WELL, WELL, []),
        (WELL, KILLED, ["Warning Restarting"]),
        (KILLED, WELL, ["Normal AllReplicasReady"]),
        (KILLED, UNSCHEDULED, ["Warning Unschedulable"]),
        (WELL, STARTING, ["Normal ReplicasStarting", "Warning ReplicasStarting"]),
        (
            STARTING,
            replace(STARTING, children=deployment_says(STARTING.children, STALLED)),
            ["Warning RolloutStalled"],
        ),
        (DOWNLOADING, DOWNLOADED, ["Normal Downloaded"]),
    ],
)
def test_events_tell_of_changes_and_of_each_cause_once(before: Observed, now: Observed, expected: list[str]) -> None:
    assert events(after(before, now)) == expected


def test_the_first_visit_of_a_healthy_beginning_makes_no_noise() -> None:
    assert [event for event in events(Observed(TWO)) if event.startswith("Warning")] == []


def test_the_last_failure_is_remembered_when_it_is_over_and_keeps_its_first_time() -> None:
    seen = status_in(reconcile(KILLED, SETTINGS, NOW))["lastFailure"]
    assert (seen["reason"], seen["target"]) == ("Restarting", "b")
    again, over = after(KILLED, KILLED), after(KILLED, WELL)
    assert not [action for action in reconcile(again, SETTINGS, LATER).actions if isinstance(action, PatchStatus)]
    assert status_in(reconcile(over, SETTINGS, LATER))["lastFailure"] == seen


def test_a_replica_that_waits_for_a_node_has_not_failed() -> None:
    waiting = settled(TWO, ready_pod(TWO, "a"), unscheduled_pod(TWO, "0/2 nodes are available", "b"))
    assert "lastFailure" not in status_in(reconcile(waiting, SETTINGS, NOW))
