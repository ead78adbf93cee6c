"""What the gateway knows of the cluster, and that no fault of the API server takes it away."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import NAMESPACE, World, open_world, until
from kubewatch import CONFIG_MAPS, ENDPOINT_SLICES
from replica import Replica
from ryzanstein_gateway.kube import pause
from ryzanstein_worker.contract import HEALTH_LIVE, HEALTH_READY, LABEL_SERVICE, ROUTES_CONFIG_MAP

ASK: dict[str, Any] = {"model": "demo", "messages": []}


async def two_replicas(world: World, **row: Any) -> tuple[Replica, Replica]:
    """Both run, only the first is known."""
    first, second = await world.add_replica(), await world.add_replica()
    await world.route("demo", **row)
    await world.endpoints("demo", [first])
    return first, second


async def learns(world: World, first: Replica, second: Replica, seconds: float = 20.0) -> None:
    """The gateway comes to know the second replica and still serves."""
    await world.endpoints("demo", [first, second], known=False)
    want = {(first.host, False), (second.host, False)}
    await until(lambda: world.seen("demo") == want, "the second replica is known", seconds)
    assert (await world.ask(**ASK)).status_code == 200


async def test_only_what_a_namespaced_role_allows_is_asked_for(world: World) -> None:
    await two_replicas(world)
    routes = "/api/v1/namespaces/ryzanstein/configmaps"
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    assert {path for path, _ in world.kube.requests} == {routes, slices}
    for path, query in world.kube.requests:
        if path == routes:
            assert query["fieldSelector"] == f"metadata.name={ROUTES_CONFIG_MAP}"
        else:
            assert query["labelSelector"] == LABEL_SERVICE
        if "watch" in query:
            assert query["allowWatchBookmarks"] == "true"
            assert int(query["timeoutSeconds"]) > 0


async def test_all_namespaces_are_one_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, watch_namespaces=("*",)) as world:
        first, second = await two_replicas(world)
        await learns(world, first, second)
        assert "/apis/discovery.k8s.io/v1/endpointslices" in {path for path, _ in world.kube.requests}


async def test_expired_version_is_listed_anew(world: World) -> None:
    first, second = await two_replicas(world)
    lists = world.kube.lists
    world.kube.forget_history()
    world.kube.hang_up()
    await learns(world, first, second)
    assert world.kube.lists > lists


async def test_a_watch_that_ends_goes_on_from_its_version_without_a_list(world: World) -> None:
    first, second = await two_replicas(world)
    lists = world.kube.lists
    world.kube.hang_up()
    await learns(world, first, second)
    assert world.kube.lists == lists


NONSENSE = [
    b"{",
    b"\xff\xfe",
    b"[]",
    b"[" * 100_000,
    b'{"type":"MODIFIED","object":{"metadata":7}}',
    b'{"type":"ADDED"}',
    b'{"type":"ERROR","object":{"code":410,"reason":"Gone"}}',
    b'{"type":"ERROR","object":{"code":500}}',
    b'{"type":"BOOKMARK","object":null}',
]


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer an API server is away, the longer it is not asked: on a slow machine longer than a test waits."""
    monkeypatch.setattr("ryzanstein_gateway.kube._LONGEST_PAUSE", 0.2)


@pytest.mark.usefixtures("short_pauses")
async def test_nonsense_on_a_watch_is_survived(world: World) -> None:
    first, second = await two_replicas(world)
    for line in NONSENSE:
        await until(lambda: world.kube.watching == 2, "both watches are open", 20)
        goal = world.kube.lists + 2
        world.kube.say(line)
        await until(lambda goal=goal: world.kube.lists >= goal, "both begin anew", 20)  # type: ignore[misc]
        assert (await world.ask(**ASK)).status_code == 200
    await learns(world, first, second)


@pytest.mark.usefixtures("short_pauses")
async def test_an_api_server_that_is_gone_changes_nothing_for_clients(world: World) -> None:
    first, second = await two_replicas(world)
    port = int(world.kube.url.rsplit(":", 1)[1])
    await world.kube.stop()
    for _ in range(5):
        assert (await world.ask(**ASK)).status_code == 200
    assert await world.probe(HEALTH_READY) == 200
    assert await world.metric('ryzanstein_gateway_endpoints_ready{model="demo"}') == 1
    await world.kube.start(port)
    await learns(world, first, second)


@pytest.mark.usefixtures("short_pauses")
async def test_an_api_server_that_answers_errors_is_asked_again(world: World) -> None:
    first, second = await two_replicas(world)
    for status in (403, 429, 500, 503):
        world.kube.broken_status = status
        world.kube.hang_up()
        goal = len(world.kube.requests) + 3
        await until(lambda goal=goal: len(world.kube.requests) >= goal, "it is asked again", 20)  # type: ignore[misc]
        assert (await world.ask(**ASK)).status_code == 200
    world.kube.broken_status = 0
    await learns(world, first, second)


async def test_a_watch_into_a_black_hole_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, watch_seconds=1) as world:
        first, second = await two_replicas(world)
        world.kube.silent = True
        goal = world.kube.watches + 2
        world.kube.hang_up()
        await until(lambda: world.kube.watches >= goal and world.kube.watching == 2, "both watches hang in silence", 20)
        world.kube.silent = False
        await learns(world, first, second)  # the watch itself would hang in silence for a minute


@pytest.mark.usefixtures("short_pauses")
async def test_a_gateway_that_has_seen_nothing_is_alive_but_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, kube_status=503) as world:
        await until(lambda: len(world.kube.requests) >= 4, "it has asked in vain", 20)
        assert await world.probe(HEALTH_READY) == 503
        assert await world.probe(HEALTH_LIVE) == 200
        assert await world.probe("/v1/models") == 404
        world.kube.broken_status = 0
        await until(lambda: not world.gateway.why_not_ready(), "it is ready", 20)
        assert await world.probe(HEALTH_READY) == 200


def probe_blocking(url: str) -> int:
    """As the kubelet asks: from outside the event loop, which stands still meanwhile."""
    return httpx.get(url, timeout=20).status_code


async def test_a_stuck_event_loop_is_not_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryzanstein_gateway.health.STUCK_SECONDS", 4.0)  # a beat is a second, and a probe blocks too
    url = f"http://127.0.0.1:{world.gateway.health_port}{HEALTH_LIVE}"
    assert probe_blocking(url) == 200
    time.sleep(4.1)  # noqa: ASYNC251 - this is the fault
    assert probe_blocking(url) == 503
    await until(lambda: probe_blocking(url) == 200, "the loop turns again", 20)


async def test_a_route_table_that_cannot_be_read_leaves_the_last_good_one(world: World) -> None:
    await two_replicas(world)
    good = json.dumps({"version": 1, "models": list(world.models.values())})
    short = '{"version":1,"models":[{"model":"x"}]}'
    for bad in ("", "{", '{"version":2,"models":[]}', '{"version":1}', short, "[" * 100_000):
        await world.put_routes(bad)
        await until(lambda: world.gateway._fleet.table_is_stale, "the bad table was seen")
        assert (await world.ask(**ASK)).status_code == 200
        assert await world.metric("ryzanstein_gateway_routes_stale") == 1
        await world.put_routes(good)
        await until(lambda: not world.gateway._fleet.table_is_stale, "the good table was seen")
    await world.put_routes('{"version":1,"models":[]}')
    await until(lambda: not world.gateway._fleet.table.by_model, "the empty table was seen")
    assert (await world.ask(**ASK)).status_code == 404


async def test_a_deleted_config_map_leaves_the_last_table(world: World) -> None:
    await two_replicas(world)
    await world.kube.delete(CONFIG_MAPS, "ryzanstein", ROUTES_CONFIG_MAP)
    await until(lambda: world.gateway._fleet.table_is_stale, "the deletion was seen")
    assert (await world.ask(**ASK)).status_code == 200


async def test_a_deleted_slice_takes_its_replicas_out(world: World) -> None:
    await two_replicas(world, maxQueuedRequests=0)
    await world.kube.delete(ENDPOINT_SLICES, NAMESPACE, "demo-workers-abcde")
    await until(lambda: not world.seen("demo"), "the endpoints are gone")
    assert (await world.ask(**ASK)).status_code == 503


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    assert [pause(n, 1.0) for n in (0, 1, 2, 3)] == [0.1, 0.2, 0.4, 0.8]
    assert pause(10_000, 1.0) == 15.0
    assert pause(5, 0.0) == pause(5, 1.0) / 2


async def test_metrics_say_how_old_the_knowledge_is(world: World) -> None:
    await two_replicas(world)
    for watch in ("routes", f"endpointslices/{NAMESPACE}"):
        line = f'ryzanstein_gateway_watch_age_seconds{{watch="{watch}"}}'
        assert 0 < await world.metric(line) < 60  # seconds of age, no date
    await asyncio.gather(*(world.ask(**ASK) for _ in range(3)))
    assert await world.metric('ryzanstein_gateway_requests_total{code="200",model="demo",protocol="http"}') == 3
    assert await world.metric('ryzanstein_gateway_request_duration_seconds_count{model="demo"}') == 3
    assert await world.metric('ryzanstein_gateway_time_to_first_byte_seconds_count{model="demo"}') == 3
    assert await world.metric('ryzanstein_gateway_requests_in_flight{model="demo"}') == 0
