"""A plan's diff shows what would change, in the operator's own fields, and nothing else."""

import copy

import operator_builders as build
from ryzanstein_kubectl.model.changes import changes, diff, project
from ryzanstein_operator.decide.observed import Observed, Ref
from ryzanstein_operator.decide.plan import CreateKey, Delete, EmitEvent, PatchTaints, Plan
from ryzanstein_operator.decide.reconcile import reconcile


def test_an_unchanged_service_has_no_change() -> None:
    live = build.service()
    plan = reconcile(build.settled(live, build.ready_pod(live)), build.SETTINGS, build.NOW)
    assert changes(plan, build.live_children(live)) == ()


def test_another_model_changes_the_deployment_and_exchanges_every_replica() -> None:
    old, new = build.service(), build.service(parallelism={"tensor": 2})
    observed = Observed(new, children=build.live_children(old), services=(new,))
    (change,) = changes(reconcile(observed, build.SETTINGS, build.NOW), observed.children)
    assert (change.action, change.about) == ("change", "Deployment team/chat")
    assert f"every replica is exchanged, revision {build.revision_of(old)} for {build.revision_of(new)}" in change.why
    body = [one for one in change.diff.splitlines() if one[:1] in "+-"][2:]
    assert any("--tensor-parallel-size" in one or "'2'" in one for one in body)
    assert not any("applied" in one or "uid" in one for one in body)


def test_what_is_missing_is_created_line_by_line() -> None:
    live = build.service()
    found = changes(reconcile(Observed(live), build.SETTINGS, build.NOW), ())
    assert {change.action for change in found} == {"create"}
    assert [change.about.split()[0] for change in found] == [
        "ServiceAccount",
        "NetworkPolicy",
        "Service",
        "Deployment",
        "PodDisruptionBudget",
    ]
    assert all(one.startswith("+") for change in found for one in change.diff.splitlines()[3:])


def test_deletions_are_changes_and_events_are_none() -> None:
    ref = build.live_children(build.service())
    plan = Plan((Delete(Ref.of(ref[0]), "uid", "it is no longer part"), EmitEvent("Normal", "Scheduled", "words")))
    (change,) = changes(plan, ())
    assert (change.action, change.why) == ("delete", "it is no longer part")


def test_an_action_without_a_manifest_is_told_in_its_own_words() -> None:
    key = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "team", "name": "chat-group-key"}}
    taints = PatchTaints(Ref("v1", "Node", "", "node-1"), "7", (), "it is well again")
    plan = Plan((CreateKey(key, "a group needs it"), taints))
    found = [(change.action, change.about, change.why) for change in changes(plan, ())]
    assert found[0][:2] == ("create", "Secret team/chat-group-key")
    assert found[0][2].endswith("a group needs it")
    assert found[1] == ("set", "Node node-1", "it is well again")


def test_fields_of_others_and_equal_amounts_are_left_out() -> None:
    live = build.desired(build.service(resources={"limits": {"memory": "1Gi"}}))["Deployment"]
    wanted = copy.deepcopy(live)
    live["metadata"]["managedFields"] = [{}]
    live["spec"]["template"]["spec"]["containers"][0] |= {"terminationMessagePath": "/dev/termination-log"}
    live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "1024Mi"
    assert project(live, wanted) == wanted
    assert diff(live, wanted) == ""
    wanted["spec"]["replicas"] = 5
    assert [one for one in diff(live, wanted).splitlines()[2:] if one[:1] in "+-"] == [
        "-  replicas: 1",
        "+  replicas: 5",
    ]


def test_an_entry_that_only_the_cluster_has_is_shown_as_going() -> None:
    live, wanted = {"ports": [{"name": "api"}, {"name": "old"}]}, {"ports": [{"name": "api"}, {"name": "new"}]}
    assert project(live, wanted) == {"ports": [{"name": "api"}, {"name": "old"}]}
