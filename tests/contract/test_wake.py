"""From a request that finds no replica, through the gateway's real words and the operator's real ear, to an Event."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from fakeapi import FakeApi
from fakeapi import fake_api as fake_api
from gateway_world import open_world
from ports import free_port
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.wake import Waker
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.resources import EVENTS, SERVICES
from ryzanstein_operator.doorbell import Doorbell, Heard, Word
from ryzanstein_operator.gateway_view import GatewayView
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers.run import Operator, serve
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import DEMAND_PATH

pytestmark = pytest.mark.slow

ROUTE = Route(model="chat", namespace="team", service="chat-workers", port=8000)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("a-shared-key\n")
    return path


def unheard(_: GatewayView) -> Heard:
    """No gateway tells of its view here."""
    raise AssertionError


class Ear:
    """An operator that writes down what it hears and when."""

    def __init__(self, key_file: Path, answer: Heard = Heard.LEADING) -> None:
        self.heard: list[tuple[float, Word]] = []
        self.answer = answer
        self.bell = Doorbell(self.hear, unheard, key_file, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.bell.port}"

    def hear(self, word: Word) -> Heard:
        self.heard.append((time.monotonic(), word))
        return self.answer


@pytest.fixture
def ear(key_file: Path) -> Iterator[Ear]:
    one = Ear(key_file)
    with one.bell:
        yield one


async def until_heard(ear: Ear, number: int) -> None:
    async with asyncio.timeout(30):
        while len(ear.heard) < number:
            await asyncio.sleep(0.01)


async def until_word(ear: Ear, holds: Callable[[Word], bool]) -> Word:
    """The first word that is so."""
    async with asyncio.timeout(30):
        while True:
            for _, word in list(ear.heard):
                if holds(word):
                    return word
            await asyncio.sleep(0.01)


async def test_the_first_word_does_not_wait_for_the_interval(ear: Ear, key_file: Path) -> None:
    waker = Waker(Operators(ear.url, key_file), "gateway-0/0", interval=600.0)
    waker.call(ROUTE, lambda: 1)
    await until_heard(ear, 1)
    await waker.close()


async def test_the_operator_is_told_seldom_however_many_wait(ear: Ear, key_file: Path) -> None:
    waker = Waker(Operators(ear.url, key_file), "gateway-0/0", interval=1.0)
    waiting = [0]
    for _ in range(200):
        waiting[0] += 1
        waker.call(ROUTE, lambda: waiting[0])
        await asyncio.sleep(0.001)
    await until_word(ear, lambda word: word.waiting == 200)
    waiting[0] = 0
    times = [when for when, _ in ear.heard]
    assert len(times) > 1
    assert all(after - before > 0.9 for before, after in itertools.pairwise(times))
    assert ear.heard[-1][1] == Word("team", "chat", 200, "gateway-0/0")
    await asyncio.sleep(1.2)
    told = len(ear.heard)
    await asyncio.sleep(1.1)
    assert len(ear.heard) == told, "nobody waits any more"
    waker.call(ROUTE, lambda: 1)
    await until_heard(ear, told + 1)
    await waker.close()


async def test_an_operator_that_is_not_there_costs_nothing_and_is_told_when_it_comes(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = Ear(key_file)
    port = late.bell.port
    waker = Waker(Operators(late.url, key_file), "gateway-0/0", interval=0.1)
    late.bell._server.socket.close()
    waker.call(ROUTE, lambda: 1)
    async with asyncio.timeout(30):
        while "no leading operator heard" not in caplog.text:
            await asyncio.sleep(0.01)
    assert "a-shared-key" not in caplog.text
    here = Doorbell(late.hear, unheard, key_file, "127.0.0.1", port)
    with here:
        await until_heard(late, 1)
        await waker.close()


async def test_a_request_at_the_gateway_is_told_of_where_no_replica_is_there_or_none_takes_it(
    ear: Ear, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, operator_url=ear.url, operator_key_file=key_file) as world:
        gone = await world.add_replica()
        await gone.stop()
        for model in ("none", "refusing"):
            await world.route(model)
            await world.endpoints(model, [] if model == "none" else [gone])
            ask = asyncio.create_task(world.ask(model=model, messages=[]))
            word = await until_word(ear, lambda word, model=model: word.service == model)  # type: ignore[misc]  # bound
            assert word.waiting == 1
            ask.cancel()
            await asyncio.gather(ask, return_exceptions=True)


async def test_without_a_key_or_an_address_nothing_is_said(ear: Ear, tmp_path: Path) -> None:
    wakers = [
        Waker(Operators(ear.url, tmp_path / "missing"), "g"),
        Waker(Operators("", tmp_path / "missing"), "g"),
        Waker(Operators(ear.url, None), "g"),
    ]
    for waker in wakers:
        waker.call(ROUTE, lambda: 1)
    await asyncio.sleep(0.2)
    for waker in wakers:
        await waker.close()
    assert ear.heard == []


@contextlib.asynccontextmanager
async def operator(cluster: Cluster, name: str, key_file: Path) -> AsyncIterator[tuple[Operator, str]]:
    """A running operator and the URL of its doorbell."""
    settings = Settings("release", "worker:dev", watch_namespaces=("team",), pod_name=name)
    one = Operator(cluster, settings)
    task = asyncio.create_task(one.run())
    try:
        with Doorbell(one.hear, unheard, key_file, "127.0.0.1", 0) as bell:
            yield one, f"http://127.0.0.1:{bell.port}"
    finally:
        one.stop()
        async with asyncio.timeout(30):
            await task


async def test_requests_that_wait_become_one_event_on_the_service(
    fake_api: FakeApi, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_api.kubeconfig))
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    metadata = {"namespace": "team", "name": "chat"}
    spec = {"model": {"uri": "demo://"}, "replicas": 0}
    fake_api.put({"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": spec})

    def told() -> list[str]:
        return [one["note"] for one in fake_api.all(EVENTS.kind) if one["reason"] == "RequestsWaiting"]

    cluster = await Cluster.connect()
    try:
        async with operator(cluster, "operator-0", key_file) as (leader, url):
            async with asyncio.timeout(30):
                while leader.probes.ready().detail != "leading":
                    await asyncio.sleep(0.02)
            waiting = [4]
            waker = Waker(Operators(url, key_file), "gateway-0/0", interval=0.1)
            waker.call(ROUTE, lambda: waiting[0])
            # At once, not at the next resync, which is minutes away.
            async with asyncio.timeout(30):
                while not told():
                    await asyncio.sleep(0.01)
            waiting[0] = 9
            await asyncio.sleep(0.6)
            assert told() == ["4 requests wait for a replica; spec.replicas is 0"]
            await waker.close()
    finally:
        await cluster.close()


async def test_the_operators_process_answers_where_it_has_a_key_and_nowhere_else(
    fake_api: FakeApi, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_api.kubeconfig))
    port = free_port()
    url = f"http://127.0.0.1:{port}{DEMAND_PATH}"
    body = {"namespace": "team", "service": "none-workers", "waiting": 1, "sender": "g"}
    plain = Settings("release", "worker:dev", watch_namespaces=("team",))
    for settings, statuses in ((replace(plain, demand_key_file=key_file), [401, 404]), (plain, [])):
        task = asyncio.create_task(serve(settings, "127.0.0.1", 0, port))
        found = []
        async with httpx.AsyncClient(timeout=30) as client:
            for key in ("wrong", "a-shared-key"):
                with contextlib.suppress(httpx.ConnectError):
                    async with asyncio.timeout(30):
                        found.append((await _post(client, url, body, key, patient=bool(statuses))).status_code)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert found == statuses


async def _post(
    client: httpx.AsyncClient, url: str, body: dict[str, object], key: str, *, patient: bool
) -> httpx.Response:
    await asyncio.sleep(0.3)
    while True:
        try:
            return await client.post(url, json=body, headers={"authorization": f"Bearer {key}"})
        except httpx.ConnectError:
            if not patient:
                raise
            await asyncio.sleep(0.05)


async def test_a_standby_says_that_it_does_not_lead_and_an_unknown_service_is_none(
    fake_api: FakeApi, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_api.kubeconfig))
    cluster = await Cluster.connect()
    try:
        one = Operator(cluster, Settings("release", "worker:dev", watch_namespaces=("team",), pod_name="operator-1"))
        metadata = {"namespace": "team", "name": "chat"}
        live = fake_api.put(
            {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": {"replicas": 0}}
        )
        one._loop._cache.put(live)

        async def hear(name: str) -> Heard:
            return await asyncio.to_thread(one.hear, Word("team", name, 1, "g"))

        assert await hear("chat") is Heard.STANDBY
        assert await hear("other") is Heard.UNKNOWN
    finally:
        await cluster.close()
