"""A Plan is carried out whole or as far as it can be, by the leader alone, on the very objects it was decided on."""

import base64

import pytest
from aiohttp import web

from fakeapi import FakeApi, Manifest, refuse
from node_builders import node_manifest
from ryzanstein_operator.cluster import client
from ryzanstein_operator.cluster.apply import Executor, NotLeadingError
from ryzanstein_operator.cluster.cache import Cache
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.events import Recorder
from ryzanstein_operator.cluster.resources import SERVICES, resource_of
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.plan import Apply, CreateKey, Delete, EmitEvent, PatchStatus, PatchTaints, Plan
from ryzanstein_operator.telemetry import Metrics

ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "team", "name": "chat"}}
BUDGET = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"namespace": "team", "name": "chat"},
    "spec": {},
}
SERVICE = {
    "apiVersion": "ryzanstein.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"namespace": "team", "name": "chat"},
    "spec": {},
}


class World:
    """An executor over the fake API, its cache, and whether it leads."""

    def __init__(self, cluster: Cluster) -> None:
        self.leading, self.cache, self.metrics = True, Cache(), Metrics()
        recorder = Recorder(cluster, "operator-0")
        self.executor = Executor(cluster, self.cache, recorder, self.metrics, lambda: self.leading)

    def writes(self, kind: str, verb: str) -> float:
        labels = {"kind": kind, "verb": verb}
        return self.metrics.registry.get_sample_value("ryzanstein_operator_writes_total", labels) or 0


@pytest.fixture
def world(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.01)
    return World(cluster)


async def test_a_write_is_in_the_picture_at_once(fake_api: FakeApi, world: World) -> None:
    outcome = await world.executor.execute(Plan((Apply(ACCOUNT, None, "missing"),)), None)
    assert (outcome.refused, outcome.again) == ({}, "")
    accounts = resource_of(Ref.of(ACCOUNT))
    assert fake_api.get("ServiceAccount", "team", "chat") == world.cache.get(accounts, "team", "chat")
    assert world.writes("ServiceAccount", "apply") == 1


async def test_an_object_that_took_the_place_of_another_is_not_touched(fake_api: FakeApi, world: World) -> None:
    live = fake_api.put(ACCOUNT)
    plan = Plan((Apply(ACCOUNT | {"x": 1}, "another-uid", "differs"), Delete(Ref.of(ACCOUNT), "another-uid", "extra")))
    outcome = await world.executor.execute(plan, None)
    assert outcome.again
    assert not outcome.refused
    assert fake_api.get("ServiceAccount", "team", "chat") == live


async def test_deleting_what_is_gone_is_done(fake_api: FakeApi, world: World) -> None:
    uid = fake_api.put(ACCOUNT)["metadata"]["uid"]
    plan = Plan((Delete(Ref.of(ACCOUNT), uid, "extra"), Delete(Ref.of(ACCOUNT), uid, "extra")))
    outcome = await world.executor.execute(plan, None)
    assert (outcome.refused, outcome.again) == ({}, "")
    assert fake_api.get("ServiceAccount", "team", "chat") is None
    assert world.writes("ServiceAccount", "delete") == 1


@pytest.mark.parametrize("code", [400, 403, 422])
async def test_a_refused_action_keeps_no_later_one_from_being_tried(fake_api: FakeApi, world: World, code: int) -> None:
    fake_api.faults.append(refuse("PATCH", "/serviceaccounts", code, "denied by policy"))
    plan = Plan((Apply(ACCOUNT, None, "missing"), Apply(BUDGET, None, "missing")))
    outcome = await world.executor.execute(plan, None)
    assert outcome.refused == {Ref.of(ACCOUNT): "denied by policy"}
    assert fake_api.get("PodDisruptionBudget", "team", "chat") is not None


async def test_a_fault_that_lasts_asks_for_another_visit(fake_api: FakeApi, world: World) -> None:
    fake_api.faults.append(refuse("PATCH", "/serviceaccounts", 503, "down"))
    outcome = await world.executor.execute(Plan((Apply(ACCOUNT, None, "missing"),)), None)
    assert "down" in outcome.again
    assert not outcome.refused


async def test_who_does_not_lead_writes_nothing(fake_api: FakeApi, world: World) -> None:
    world.leading = False
    with pytest.raises(NotLeadingError):
        await world.executor.execute(Plan((Apply(ACCOUNT, None, "missing"),)), None)
    assert not fake_api.writes()


async def test_leadership_lost_in_the_middle_stops_the_rest(fake_api: FakeApi, world: World) -> None:
    def lose(_: object) -> None:
        world.leading = False

    fake_api.faults.append(lose)
    with pytest.raises(NotLeadingError):
        await world.executor.execute(Plan((Apply(ACCOUNT, None, "a"), Apply(BUDGET, None, "b"))), None)
    assert len(fake_api.writes()) == 1


async def test_status_goes_to_the_subresource_of_the_same_object(fake_api: FakeApi, world: World) -> None:
    uid = fake_api.put(SERVICE)["metadata"]["uid"]
    status = {"observedGeneration": 1}
    await world.executor.execute(Plan((PatchStatus(Ref.of(SERVICE), uid, status, "news"),)), None)
    assert [call.path.rpartition("/")[2] for call in fake_api.writes()] == ["status"]
    stored = world.cache.get(SERVICES, "team", "chat")
    assert stored is not None
    assert stored["status"] == status
    outcome = await world.executor.execute(Plan((PatchStatus(Ref.of(SERVICE), "other", {"x": 1}, "news"),)), None)
    assert outcome.again


async def test_a_spec_that_changed_while_its_status_was_written_is_left_for_the_watch_to_tell(
    fake_api: FakeApi, world: World
) -> None:
    live = fake_api.put(SERVICE)
    for decided_on, known in ((0, False), (1, True)):  # the one that lives is generation 1
        status = {"observedGeneration": decided_on}
        await world.executor.execute(
            Plan((PatchStatus(Ref.of(SERVICE), live["metadata"]["uid"], status, "new"),)), None
        )
        assert (world.cache.get(SERVICES, "team", "chat") is not None) is known


async def test_the_status_decided_on_an_older_state_is_not_written(fake_api: FakeApi, world: World) -> None:
    first = fake_api.put(SERVICE)["metadata"]
    fake_api.put(SERVICE | {"spec": {"replicas": 2}})
    stale = PatchStatus(Ref.of(SERVICE), first["uid"], {"observedGeneration": 1}, "news", first["resourceVersion"])
    outcome = await world.executor.execute(Plan((stale,)), None)
    assert outcome.again
    assert "status" not in fake_api.get("InferenceService", "team", "chat")


async def test_a_refused_status_asks_for_another_visit(fake_api: FakeApi, world: World) -> None:
    fake_api.put(SERVICE)
    fake_api.faults.append(refuse("PATCH", "/status", 422, "status is invalid"))
    outcome = await world.executor.execute(Plan((PatchStatus(Ref.of(SERVICE), None, {}, "news"),)), None)
    assert "invalid" in outcome.again


async def test_an_event_that_comes_again_is_counted_not_repeated(fake_api: FakeApi, world: World) -> None:
    about = fake_api.put(SERVICE)
    plan = Plan((EmitEvent("Warning", "ImagePullFailed", "cannot pull"),))
    for _ in range(3):
        await world.executor.execute(plan, about)
    await world.executor.execute(Plan((EmitEvent("Normal", "Created", "made"),)), about)
    events = {event["reason"]: event for event in fake_api.all("Event")}
    assert len(events) == 2
    assert events["ImagePullFailed"]["series"]["count"] == 3
    assert events["ImagePullFailed"]["regarding"]["uid"] == about["metadata"]["uid"]
    assert "series" not in events["Created"]


async def test_an_event_that_has_expired_is_posted_anew(fake_api: FakeApi, world: World) -> None:
    about = fake_api.put(SERVICE)
    plan = Plan((EmitEvent("Warning", "CrashLoop", "again"),))
    await world.executor.execute(plan, about)
    fake_api.faults.append(refuse("PATCH", "/events", 404, "not found"))
    await world.executor.execute(plan, about)
    assert len(fake_api.all("Event")) == 2


async def test_an_event_that_is_lost_breaks_nothing(fake_api: FakeApi, world: World) -> None:
    about = fake_api.put(SERVICE)
    fake_api.faults.append(refuse("POST", "/events", 403, "forbidden"))
    plan = Plan((EmitEvent("Normal", "Created", "made"), Apply(ACCOUNT, None, "missing")))
    outcome = await world.executor.execute(plan, about)
    assert (outcome.refused, outcome.again) == ({}, "")
    assert fake_api.get("ServiceAccount", "team", "chat") is not None


def test_the_manifest_of_a_plan_is_not_changed_by_its_uid() -> None:
    from ryzanstein_operator.cluster.apply import _with_uid

    before: Manifest = {"metadata": {"name": "chat"}}
    assert _with_uid(before, "u")["metadata"] == {"name": "chat", "uid": "u"}
    assert before == {"metadata": {"name": "chat"}}


KEY = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "team", "name": "chat-group-key"}}


async def test_a_key_is_random_and_one_that_is_there_is_left_as_it_is(fake_api: FakeApi, world: World) -> None:
    plan = Plan((CreateKey(KEY, "a group is made"),))
    assert (await world.executor.execute(plan, None)).refused == {}
    (made,) = fake_api.all("Secret")
    assert len(bytes.fromhex(base64.b64decode(made["data"]["key"]).decode())) == 32
    outcome = await world.executor.execute(plan, None)
    assert (outcome.refused, outcome.again) == ({}, "")
    assert fake_api.all("Secret") == [made]
    assert world.writes("Secret", "create") == 1
    fake_api.delete("Secret", "team", "chat-group-key")
    await world.executor.execute(plan, None)
    assert fake_api.all("Secret")[0]["data"] != made["data"]
    assert made["data"]["key"] not in str(plan.details)


async def test_a_key_that_may_not_be_made_is_told(fake_api: FakeApi, world: World) -> None:
    fake_api.faults.append(refuse("POST", "/secrets", 403, "secrets is forbidden"))
    outcome = await world.executor.execute(Plan((CreateKey(KEY, "a group is made"),)), None)
    assert outcome.refused == {Ref.of(KEY): "secrets is forbidden"}


@pytest.mark.parametrize("code", [403, 409, 500])
async def test_what_waits_for_a_key_is_not_made_without_it(fake_api: FakeApi, world: World, code: int) -> None:
    fake_api.faults.append(refuse("POST", "/secrets", code, "not now"))
    plan = Plan((CreateKey(KEY, "a group is made"), Apply(ACCOUNT, None, "it is missing", after=Ref.of(KEY))))
    outcome = await world.executor.execute(plan, None)
    assert outcome.refused or outcome.again
    assert fake_api.get("ServiceAccount", "team", "chat") is None
    fake_api.faults.clear()
    await world.executor.execute(plan, None)
    assert fake_api.get("ServiceAccount", "team", "chat") is not None


async def test_an_object_on_its_way_out_is_in_the_picture_as_such(fake_api: FakeApi, world: World) -> None:
    live = fake_api.put(ACCOUNT)
    world.cache.put(live)
    leaving = {**live, "metadata": {**live["metadata"], "resourceVersion": "99", "deletionTimestamp": "now"}}

    def waits(request: web.Request) -> web.Response | None:
        return web.json_response(leaving) if request.method == "DELETE" else None

    fake_api.faults.append(waits)
    delete = Delete(Ref.of(ACCOUNT), live["metadata"]["uid"], "it is withdrawn", foreground=True)
    await world.executor.execute(Plan((delete,)), None)
    assert world.cache.get(resource_of(Ref.of(ACCOUNT)), "team", "chat") == leaving


async def test_taints_are_set_on_the_version_that_was_seen_and_on_no_later_one(fake_api: FakeApi, world: World) -> None:
    live = fake_api.put(node_manifest("a"))
    version, ref = live["metadata"]["resourceVersion"], Ref("v1", "Node", "", "a")
    wanted = (*live["spec"]["taints"], {"key": "ours", "value": "x", "effect": "NoSchedule"})
    plan = Plan((PatchTaints(ref, version, wanted, "it is lost"),))
    assert not (await world.executor.execute(plan, None)).again
    assert [taint["key"] for taint in (fake_api.get("Node", "", "a") or live)["spec"]["taints"]] == ["team/gpu", "ours"]
    assert world.writes("Node", "taint") == 1
    stale = Plan((PatchTaints(ref, version, (), "of an older version"),))
    assert (await world.executor.execute(stale, None)).again
    assert len((fake_api.get("Node", "", "a") or live)["spec"]["taints"]) == 2


async def test_pods_that_are_deleted_because_of_their_node_are_counted(fake_api: FakeApi, world: World) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "team", "name": "p"}, "spec": {}}
    uid = fake_api.put(pod)["metadata"]["uid"]
    await world.executor.execute(
        Plan((Delete(Ref.of(pod), uid, "NodeUnreachable"), Delete(Ref.of(pod), uid, ""))), None
    )
    counted = world.metrics.registry.get_sample_value("ryzanstein_operator_failover_deletions_total")
    assert (counted, fake_api.get("Pod", "team", "p")) == (1, None)


async def test_who_may_not_taint_is_told_so(fake_api: FakeApi, world: World) -> None:
    fake_api.put(node_manifest("a"))
    fake_api.faults.append(refuse("PATCH", "/nodes/", 403, "nodes is forbidden"))
    ref = Ref("v1", "Node", "", "a")
    outcome = await world.executor.execute(Plan((PatchTaints(ref, "1", (), "it is lost"),)), None)
    assert outcome.refused == {ref: "nodes is forbidden"}
