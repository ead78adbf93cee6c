"""The whole operator against a small API over real HTTP: from an event to writes, and then quiet."""

import asyncio
import math
import time
from dataclasses import replace

import pytest
from aiohttp import web

from fakeapi import FakeApi, Manifest, refuse
from node_builders import node_manifest
from operator_life import conditions, running, until, until_quiet
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import parse
from ryzanstein_operator.cluster import heartbeat, views
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.decide.observed import ServiceView
from ryzanstein_operator.desired.groups import stateful_set
from ryzanstein_operator.desired.names import CHILD_KINDS, child_name
from ryzanstein_operator.doorbell import Heard
from ryzanstein_operator.gateway_view import GatewayView, Told
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers import queue as queue_module
from ryzanstein_operator.handlers import run
from ryzanstein_operator.handlers.run import Operator
from ryzanstein_operator.settings import Settings
from ryzanstein_worker import contract


def a_service(name: str = "chat", **spec: object) -> Manifest:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": {"namespace": "team", "name": name},
        "spec": {"model": {"uri": "demo://"}, "replicas": 1} | spec,
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    monkeypatch.setattr(queue_module, "PACE_SECONDS", 0.3)  # less than what counts as quiet


def most_tries(since: float) -> int:
    """Of a visit that is refused each time: the first, the one that tells of it, and those of the backoff since."""
    shortest = 0.75 * queue_module.BACKOFF_SECONDS
    return 2 + int(math.log2((time.monotonic() - since) / shortest + 1))


def children(api: FakeApi, name: str = "chat") -> list[Manifest]:
    found = [api.get(kind, "team", child_name(kind, name)) for _, kind in CHILD_KINDS]
    return [child for child in found if child]


def table(api: FakeApi) -> str:
    found = api.get("ConfigMap", "release", contract.ROUTES_CONFIG_MAP)
    return str(found["data"][contract.ROUTES_KEY]) if found else ""


async def test_a_deadline_that_has_passed_presses_no_write_that_is_refused(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.faults.append(refuse("PATCH", "/status", 403, "inferenceservices/status is forbidden"))
    live = fake_api.put(a_service(parallelism={"tensor": 2, "nodes": 2}))
    group = stateful_set(parse(InferenceService, live), settings, 0)
    fake_api.put(group)
    late = {"id": f"scale-{live['metadata']['generation']}-1", "type": "Scale", "step": "Place", "tries": 0}
    late |= {"target": group["metadata"]["name"], "deadline": "2026-01-01T00:00:10Z", "message": ""}
    fake_api.put({**live, "status": {"operation": late}})
    started = time.monotonic()
    async with running(cluster, settings):
        await until(lambda: [call for call in fake_api.writes() if call.path.endswith("/status")])
        await asyncio.sleep(2)
        tries = len([call for call in fake_api.writes() if call.path.endswith("/status")])
        assert tries <= most_tries(started)
        assert fake_api.get("StatefulSet", "team", group["metadata"]["name"]), "ended before it was written down"


async def test_a_service_gets_its_children_and_a_status_and_then_all_is_quiet(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings) as operator:
        uid = fake_api.put(a_service())["metadata"]["uid"]
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS) and conditions(fake_api))
        owners = [child["metadata"]["ownerReferences"][0]["uid"] for child in children(fake_api)]
        assert owners == [uid] * len(CHILD_KINDS)
        await until(lambda: fake_api.get("ConfigMap", "release", "ryzanstein-routes"))
        written = await until_quiet(fake_api)
        service = fake_api.get(SERVICES.kind, "team", "chat")
        assert service is not None
        service["metadata"]["annotations"] = {"note": "an event that changes nothing of ours"}
        fake_api.put(service)
        assert await until_quiet(fake_api) == written
        assert "finalizers" not in service["metadata"]
        assert operator.probes.ready().detail == "leading"


async def test_a_hand_edited_child_is_put_back(fake_api: FakeApi, cluster: Cluster, settings: Settings) -> None:
    async with running(cluster, settings):
        fake_api.put(a_service())
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        await until_quiet(fake_api)
        deployment = fake_api.get("Deployment", "team", "chat")
        assert deployment is not None
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"
        fake_api.put(deployment)
        fake_api.delete("NetworkPolicy", "team", "chat")

        def healed() -> bool:
            live = fake_api.get("Deployment", "team", "chat") or deployment
            wall = fake_api.get("NetworkPolicy", "team", "chat")
            return bool(live["spec"]["template"]["spec"]["containers"][0]["image"] == image and wall)

        await until(healed)


async def test_what_was_deleted_while_the_watch_was_broken_is_made_again(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings):
        fake_api.put(a_service())
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        await until_quiet(fake_api)
        fake_api.delete("Deployment", "team", "chat", unseen=True)
        fake_api.break_watches()
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))


async def test_an_end_that_the_watch_missed_shows_though_its_next_list_is_empty(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings):
        fake_api.put(a_service())
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        await until_quiet(fake_api)
        fake_api.delete(SERVICES.kind, "team", "chat", unseen=True)
        fake_api.break_watches()
        await until(lambda: '"models": []' in table(fake_api))


async def test_a_deleted_service_leaves_nothing_and_makes_no_noise(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings) as operator:
        fake_api.put(a_service())
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        await until_quiet(fake_api)
        fake_api.delete(SERVICES.kind, "team", "chat")
        await until_quiet(fake_api)
        assert children(fake_api) == []
        assert b"reconcile_errors_total 0.0" in operator.probes.metrics("")[0]


async def test_what_is_refused_stands_in_the_status_and_does_not_spin(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.faults.append(refuse("PATCH", "/deployments", 403, "denied by the house's policy"))
    async with running(cluster, settings):
        started = time.monotonic()
        fake_api.put(a_service())
        await until(lambda: "denied by the house's policy" in str(conditions(fake_api)))
        await asyncio.sleep(1.5)
        assert len([call for call in fake_api.writes() if "/deployments" in call.path]) <= most_tries(started)
        fake_api.faults.clear()
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))


async def test_a_refusal_stands_in_the_status_at_once_whatever_the_backoff(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "BACKOFF_SECONDS", 60.0)
    fake_api.faults.append(refuse("PATCH", "/deployments", 403, "denied by the house's policy"))
    async with running(cluster, settings):
        fake_api.put(a_service())
        await until(lambda: "denied by the house's policy" in str(conditions(fake_api)))


@pytest.mark.parametrize("writes", range(7))
async def test_an_operator_that_dies_between_two_writes_is_taken_up_where_it_was(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, writes: int
) -> None:
    """Killed after the n-th write: the next one ends at the same children, and makes none of them twice."""
    left = writes

    def dies(request: web.Request) -> web.Response | None:
        nonlocal left
        if request.method == "GET" or "/leases" in request.path:
            return None
        left -= 1
        return None if left >= 0 else web.json_response({"message": "gone"}, status=400)

    fake_api.faults.append(dies)
    async with running(cluster, settings):
        fake_api.put(a_service())
        await until(lambda: left < 0)
    before = {child["kind"]: child["metadata"]["uid"] for child in children(fake_api)}
    fake_api.faults.clear()
    async with running(cluster, settings):
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS) and conditions(fake_api))
        await until_quiet(fake_api, 0.3)
    after = {child["kind"]: child["metadata"]["uid"] for child in children(fake_api)}
    assert after | before == after


async def test_crds_that_are_missing_are_waited_for(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ryzanstein_operator.cluster import discovery

    monkeypatch.setattr(discovery, "POLL_SECONDS", 0.05)
    all_kinds = fake_api.kinds
    fake_api.kinds = tuple(resource for resource in all_kinds if resource is not SERVICES)
    async with running(cluster, settings) as operator:
        await until(lambda: "install the CRDs" in operator.probes.ready().reason)
        assert operator.probes.live().reason == ""
        fake_api.kinds = all_kinds
        await until(lambda: operator.probes.ready().reason == "")


async def test_an_operator_that_is_stopped_while_it_waits_ends(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.kinds = ()
    async with running(cluster, settings) as operator:
        await until(lambda: "not served" in operator.probes.ready().reason)


async def test_a_kind_that_may_not_be_listed_keeps_it_unready_and_named(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fault = refuse("GET", "/poddisruptionbudgets", 403, "poddisruptionbudgets is forbidden")
    fake_api.faults.append(fault)
    async with running(cluster, settings) as operator:
        await until(lambda: "poddisruptionbudgets is forbidden" in operator.probes.ready().reason)
        fake_api.put(a_service())
        assert not fake_api.writes()
        fake_api.faults.clear()
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))


@pytest.mark.slow
async def test_without_the_right_to_read_nodes_all_else_works_and_once_it_is_granted_nodes_are_watched(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "RESYNC_SECONDS", 0.3)
    fake_api.faults.append(refuse("GET", "/nodes", 403, "nodes is forbidden"))
    async with running(cluster, replace(settings, node_health=True, node_taints=True)) as operator:
        fake_api.put(a_service())
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        assert operator.probes.ready().detail == "leading"
        fake_api.faults.clear()
        await until_quiet(fake_api)
        fake_api.put(node_manifest("a", ours="NodeNotReady"))
        # It is well, so the taint of a life before goes. A list tells of this one, and of the next only the watch.
        await until(lambda: len((fake_api.get("Node", "", "a") or {})["spec"]["taints"]) == 1)
        monkeypatch.setattr(loop_module, "RESYNC_SECONDS", 600.0)
        await asyncio.sleep(1.0)
        fake_api.put(node_manifest("b", ours="NodeNotReady"))
        await until(lambda: len((fake_api.get("Node", "", "b") or {})["spec"]["taints"]) == 1)


async def test_a_watch_that_has_silently_died_fails_the_liveness_probe(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "STALE_SECONDS", 1.0)
    async with running(cluster, settings) as operator:
        await until(lambda: operator.probes.ready().detail == "leading")
        await asyncio.sleep(1.5)
        # More renewals than one have come through by now. One under way while the machine stood still may look late
        # for a moment; a watch that works makes up for it.
        await until(lambda: operator.probes.live().reason == "")
        fake_api.frozen = True
        await until(lambda: "has not come through the watch" in operator.probes.live().reason)
        fake_api.frozen = False
        await until(lambda: operator.probes.live().reason == "")


async def test_an_event_loop_that_is_stuck_fails_the_liveness_probe(
    cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STUCK_SECONDS", 0.0)
    assert "stuck" in Operator(cluster, settings).probes.live().reason


async def test_one_service_that_cannot_be_decided_stops_no_other(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ryzanstein_operator.decide.reconcile import reconcile as decide

    def broken(observed: Manifest, *rest: object) -> object:
        if observed.service["metadata"]["name"] == "bad":  # type: ignore[attr-defined]  # Observed
            raise RuntimeError("a fault of ours")
        return decide(observed, *rest)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(loop_module, "reconcile", broken)
    async with running(cluster, settings) as operator:
        fake_api.put(a_service("bad"))
        fake_api.put(a_service("chat"))
        await until(lambda: len(children(fake_api)) == len(CHILD_KINDS))
        await until(lambda: b"reconcile_errors_total 0.0" not in operator.probes.metrics("")[0])


def calls_of(api: FakeApi, part: str, method: str = "PATCH") -> int:
    return sum(call.method == method and part in call.path for call in list(api.calls))


async def test_a_resync_of_what_stands_reads_all_and_writes_nothing(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "RESYNC_SECONDS", 0.2)
    for name in ("one", "two"):
        fake_api.put(a_service(name))
    async with running(cluster, settings):
        await until(lambda: conditions(fake_api, "one") and conditions(fake_api, "two"))
        written = await until_quiet(fake_api)
        listed = calls_of(fake_api, "/pods", "GET")
        await until(lambda: calls_of(fake_api, "/pods", "GET") >= listed + 3)
        assert len(fake_api.writes()) == written


async def test_one_change_is_one_write_of_what_it_changes_and_one_of_the_status(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings):
        for name in ("chat", "other"):
            fake_api.put(a_service(name))
        await until(lambda: conditions(fake_api) and conditions(fake_api, "other"))
        before = len(fake_api.calls) if await until_quiet(fake_api) else 0
        fake_api.put(a_service(replicas=3))
        await until(lambda: (fake_api.get("Deployment", "team", "chat") or {})["spec"]["replicas"] == 3)
        await until_quiet(fake_api)
        written = [call.path for call in fake_api.calls[before:] if call.writes and "/leases/" not in call.path]
        assert sum(path.endswith("/deployments/chat") for path in written) == 1
        assert sum(path.endswith("/chat/status") for path in written) == 1
        assert len([path for path in written if "/events" not in path]) == 2, written


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_many_services_that_all_fail_do_not_flood_the_api_server(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, rate, burst, seconds = 40, 5.0, 5, 4.0
    monkeypatch.setattr(queue_module, "MAX_BACKOFF_SECONDS", 0.2)  # what is left is the rate of all together
    monkeypatch.setattr(queue_module, "RETRIES_PER_SECOND", rate)
    monkeypatch.setattr(queue_module, "RETRY_BURST", burst)
    fake_api.faults.append(refuse("PATCH", "/deployments", 422, "no"))
    async with running(cluster, settings):
        for number in range(services):
            fake_api.put(a_service(f"chat-{number}"))
        told = "APPLY_REFUSED".title().replace("_", "")
        await until(
            lambda: all(
                (conditions(fake_api, f"chat-{n}").get("Degraded") or {}).get("reason") == told for n in range(services)
            ),
            60,
        )
        await asyncio.sleep(1.5)  # the steps that follow one another at the pace of a second
        before, started = calls_of(fake_api, "/deployments"), time.monotonic()
        await asyncio.sleep(seconds)
        tries, past = calls_of(fake_api, "/deployments") - before, time.monotonic() - started
    # Tries that were due while the machine stood still, ten seconds' worth at most, come in this time as well.
    assert 1 <= tries <= rate * (past + 10) + burst, "each would try five times a second by itself, 800 in all"


@pytest.mark.slow
async def test_what_gateways_see_stands_in_the_status_for_as_long_as_they_go_on_saying_it(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "FRESH_SECONDS", 3.0)
    monkeypatch.setattr(run, "HEAR_SECONDS", 20.0)
    told = GatewayView("gateway-0", (Told("team", "chat", ServiceView("gateway-0", 1)),))
    strange = GatewayView("gateway-0", (Told("team", "none-of-ours", ServiceView("gateway-0", 1)),))
    async with running(cluster, settings) as operator:
        fake_api.put(a_service())
        await until(lambda: conditions(fake_api).get("Serving", {}).get("status") == "False")
        await until_quiet(fake_api)
        async with asyncio.timeout(30):
            while conditions(fake_api)["Serving"]["message"] != "1 replica answers requests":
                assert await asyncio.to_thread(operator.hear_view, told) is Heard.LEADING
                await asyncio.sleep(0.05)
        await until(lambda: conditions(fake_api)["Serving"]["status"] == "False")
        assert await asyncio.to_thread(operator.hear_view, strange) is Heard.LEADING
        assert await until_quiet(fake_api) == await until_quiet(fake_api)
