"""A Plan holds what is missing or differs, in order, and nothing else; strangers are left alone."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from operator_builders import (
    NOW,
    SETTINGS,
    broken_pod,
    conditions_in,
    container,
    live_children,
    ready_pod,
    service,
    settled,
    status_in,
)
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import Action, Apply, Delete, EmitEvent, PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import CONFLICT_SECONDS, reconcile
from ryzanstein_operator.decide.steps import LEAVING_SECONDS, SETUP_SECONDS
from ryzanstein_operator.desired import names
from status_situations import leaving_pod, set_up_pod

LIVE = service()


def plan(observed: Observed) -> Plan:
    return reconcile(observed, SETTINGS, NOW)


def told(observed: Observed) -> Observed:
    """The same after its status was written."""
    return replace(observed, service={**observed.service, "status": status_in(plan(observed))})


def applies(found: Plan) -> list[str]:
    return [action.ref.kind for action in found.actions if isinstance(action, Apply)]


def of(found: Plan, kind: type[Action]) -> list[Action]:
    return [action for action in found.actions if isinstance(action, kind)]


def changed(observed: Observed, kind: str, change: Any) -> Observed:
    """The same with one child changed by hand."""
    children = copy.deepcopy(observed.children)
    change(next(child for child in children if child["kind"] == kind))
    return replace(observed, children=children)


def test_a_new_service_gets_all_its_children_and_then_its_status() -> None:
    found = plan(Observed(LIVE))
    assert applies(found) == [kind for _, kind in names.CHILD_KINDS]
    assert all(action.uid is None for action in found.actions if isinstance(action, Apply))
    assert isinstance(found.actions[-1], PatchStatus)
    assert found.details[0] == "create ServiceAccount team/chat: it is missing"


def test_nothing_is_written_when_nothing_differs() -> None:
    found = plan(told(settled(LIVE, ready_pod(LIVE))))
    assert found == Plan()
    assert not found.contains_actions()


def test_the_same_observation_gives_the_same_plan_and_is_left_as_it_was() -> None:
    observed = settled(LIVE, ready_pod(LIVE))
    before = copy.deepcopy(observed)
    assert plan(observed) == plan(observed)
    assert observed == before


def test_a_missing_child_alone_is_made_again() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    without = tuple(child for child in whole.children if child["kind"] != "NetworkPolicy")
    assert applies(plan(replace(whole, children=without))) == ["NetworkPolicy"]


def test_a_hand_edit_is_put_back_by_uid_and_told_as_an_event() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    edited = changed(whole, "Deployment", lambda child: child["spec"].update(replicas=7))
    apply, event = plan(edited).actions
    assert isinstance(apply, Apply)
    assert (apply.uid, apply.why) == ("uid-Deployment", "differs in spec.replicas")
    assert apply.manifest["spec"]["replicas"] == 1
    assert event == EmitEvent(
        "Warning",
        "DriftCorrected",
        "Deployment team/chat was changed by somebody else: it differs in spec.replicas",
    )


def test_a_hole_torn_into_the_network_policy_is_closed() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    torn = changed(whole, "NetworkPolicy", lambda child: child["spec"]["ingress"].append({}))
    assert applies(plan(torn)) == ["NetworkPolicy"]


def test_a_label_put_beside_ours_in_a_selector_is_taken_out() -> None:
    """It would select no pod, and the service would serve nothing."""
    observed = changed(settled(LIVE), "Service", lambda child: child["spec"]["selector"].update({"app": "another"}))
    assert applies(plan(told(observed))) == ["Service"]


def test_a_field_that_is_no_longer_wanted_is_taken_away_without_a_word_of_drift() -> None:
    before = service(template={"nodeSelector": {"pool": "gpu"}})
    observed = replace(settled(LIVE, ready_pod(LIVE)), children=live_children(before))
    found = plan(observed)
    assert applies(found) == ["Deployment"]
    assert "DriftCorrected" not in [event.reason for event in of(found, EmitEvent) if isinstance(event, EmitEvent)]


def test_a_lost_owner_reference_is_given_back() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    orphan = changed(whole, "Service", lambda child: child["metadata"].pop("ownerReferences"))
    assert applies(plan(orphan)) == ["Service"]


def stranger(owner: Manifest | None) -> Observed:
    def estrange(child: Manifest) -> None:
        child["metadata"] |= {"labels": {"app": "other"}, "ownerReferences": [owner] if owner else []}

    return changed(settled(LIVE), "Deployment", estrange)


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (None, "Deployment team/chat exists already and is not of this service; delete it, or choose another name"),
        (
            {"kind": "InferenceService", "name": "chat", "uid": "uid-before", "controller": True},
            "Deployment team/chat belongs to InferenceService chat (UID uid-before), and waits for its deletion",
        ),
    ],
)
def test_an_object_of_somebody_else_is_left_alone_and_named(owner: Manifest | None, words: str) -> None:
    found = plan(stranger(owner))
    assert applies(found) == []
    assert of(found, Delete) == []
    ready = conditions_in(found)["Ready"]
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "NameConflict", words)


def test_a_child_on_its_way_out_is_waited_for() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    leaving = changed(
        whole, "Deployment", lambda child: child["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z")
    )
    assert plan(changed(leaving, "Deployment", lambda child: child["spec"].update(replicas=9))) == Plan()


def test_a_child_of_a_former_name_is_deleted_by_uid_and_a_stranger_s_is_not() -> None:
    whole = told(settled(LIVE, ready_pod(LIVE)))
    former, foreign = (copy.deepcopy(whole.children[2]) for _ in range(2))
    former["metadata"] |= {"name": "chat-old", "uid": "uid-old"}
    foreign["metadata"] |= {"name": "chat-other", "uid": "uid-other", "ownerReferences": []}
    found = plan(replace(whole, children=(*whole.children, former, foreign)))
    ref = Ref("v1", "Service", "team", "chat-old")
    assert found.actions == (Delete(ref, "uid-old", "it is no longer part of the service"),)
    assert found.details == ("delete Service team/chat-old: it is no longer part of the service",)


def test_a_service_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    gone = {**LIVE, "metadata": {**LIVE["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert plan(Observed(gone)) == Plan()


def test_a_spec_that_cannot_be_run_leaves_its_children_and_says_what_is_wrong() -> None:
    observed = settled(LIVE, ready_pod(LIVE))
    broken = {**LIVE, "spec": {"model": {"uri": "s3://bucket"}, "replicas": 1}}
    found = plan(replace(observed, service=broken))
    assert applies(found) == []
    assert of(found, Delete) == []
    conditions = conditions_in(found)
    for kind in ("Ready", "Progressing"):
        assert (conditions[kind]["status"], conditions[kind]["reason"]) == ("False", "InvalidSpec")
        assert conditions[kind]["message"].startswith("spec.model.uri: must start with demo://")
    assert conditions["Serving"]["status"] == "True"
    assert conditions["ModelCached"]["status"] == conditions["CapacityAvailable"]["status"] == "Unknown"
    assert status_in(found)["readyReplicas"] == 1


@pytest.mark.parametrize(
    "spec", [None, [], "text", {"model": None}, {"model": {"uri": 5}}, {"model": {"uri": "demo://"}, "x": 1}]
)
def test_nothing_that_a_user_may_write_makes_it_raise(spec: object) -> None:
    broken = {**LIVE, "spec": spec}
    assert conditions_in(plan(Observed(broken, services=(broken,))))["Ready"]["reason"] == "InvalidSpec"


def test_a_bad_model_is_told_once_and_then_all_is_quiet() -> None:
    bad = container(waiting={"reason": "CrashLoopBackOff"}, ended={"exitCode": 78, "message": "no such tensor"})
    observed = settled(LIVE, broken_pod(LIVE, bad))
    first = plan(observed)
    warnings = [event for event in first.actions if isinstance(event, EmitEvent) and event.type == "Warning"]
    assert [event.reason for event in warnings] == ["ModelUnusable"]
    again = copy.deepcopy(told(observed))
    again.pods[0]["status"]["containerStatuses"][0]["restartCount"] = 9
    assert plan(again) == Plan()


def test_it_comes_again_when_time_or_an_object_that_is_not_watched_may_change_what_is_to_be_done() -> None:
    assert plan(settled(LIVE, ready_pod(LIVE))).again_after is None
    assert plan(stranger(None)).again_after == CONFLICT_SECONDS
    waiting = set_up_pod(LIVE, ready_to_start="False", since="2026-01-02T03:04:00Z")
    assert plan(settled(LIVE, waiting)).again_after == SETUP_SECONDS - 5
    assert (
        plan(settled(LIVE, ready_pod(LIVE), leaving_pod(LIVE, due="2026-01-02T03:04:05Z"))).again_after
        == LEAVING_SECONDS
    )
