"""What a call to the API server promises: a deadline, another try for what passes by itself, and the server's words."""

import asyncio
import time

import pytest
from aiohttp import web

from fakeapi import FakeApi, refuse
from ryzanstein_operator.cluster import client
from ryzanstein_operator.cluster.client import ApiError, Cluster

PATH = "/api/v1/namespaces/team/services/chat"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.01)


@pytest.mark.parametrize("code", [0, 429, 500, 503])
async def test_a_fault_that_passes_is_tried_again(fake_api: FakeApi, cluster: Cluster, code: int) -> None:
    fake_api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "chat"}})
    fake_api.faults.append(refuse("GET", "/services", code, "busy", times=3))
    assert (await cluster.call("GET", PATH))["metadata"]["name"] == "chat"
    assert len(fake_api.calls) == 4


async def test_a_fault_that_lasts_ends_in_an_error_after_a_few_tries(fake_api: FakeApi, cluster: Cluster) -> None:
    fake_api.faults.append(refuse("GET", "/services", 503, "down"))
    with pytest.raises(ApiError, match="503: down") as caught:
        await cluster.call("GET", PATH)
    assert caught.value.transient
    assert len(fake_api.calls) == client.ATTEMPTS


async def test_a_write_is_not_tried_again_once_the_lead_is_lost(fake_api: FakeApi, cluster: Cluster) -> None:
    fake_api.faults += [refuse(method, "/services", 503, "down") for method in ("GET", "PATCH")]
    cluster.may_write = lambda: False
    with pytest.raises(ApiError, match="503: down"):
        await cluster.call("PATCH", PATH, {})
    assert len(fake_api.calls) == 1
    with pytest.raises(ApiError, match="503: down"):  # to look is no harm
        await cluster.call("GET", PATH)
    assert len(fake_api.calls) == 1 + client.ATTEMPTS


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422])
async def test_a_refusal_is_told_at_once_in_the_servers_words(fake_api: FakeApi, cluster: Cluster, code: int) -> None:
    fake_api.faults.append(refuse("GET", "/services", code, "not for you"))
    with pytest.raises(ApiError) as caught:
        await cluster.call("GET", PATH)
    assert (caught.value.status, caught.value.sentence) == (code, "not for you")
    assert len(fake_api.calls) == 1


async def test_each_attempt_is_told_of_with_what_came_of_it(fake_api: FakeApi, cluster: Cluster) -> None:
    told: list[client.Call] = []
    cluster.watcher = told.append
    fake_api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "chat"}})
    fake_api.faults += [
        refuse("GET", "/services", 503, "busy", times=1),
        refuse("GET", "/services", 0, "", times=2),  # aiohttp itself tries again where a kept connection breaks
    ]
    await cluster.call("GET", PATH)
    with pytest.raises(ApiError):
        await cluster.call("GET", "/api/v1/namespaces/team/services/other")
    assert [(call.status, call.attempt) for call in told] == [(503, 1), (0, 2), (200, 3), (404, 1)]
    assert told[0].error == "busy"
    assert all(call.method == "GET" and 0 < call.seconds < 5 for call in told)


async def test_retry_after_is_obeyed(fake_api: FakeApi, cluster: Cluster) -> None:
    fake_api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "chat"}})
    fake_api.faults.append(refuse("GET", "/services", 429, "slow down", times=1, **{"Retry-After": "0.4"}))
    started = time.monotonic()
    await cluster.call("GET", PATH)
    assert time.monotonic() - started >= 0.4


async def test_many_that_were_told_to_wait_do_not_come_back_at_one_instant(
    fake_api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    ours, sleep = asyncio.current_task(), asyncio.sleep

    async def note(seconds: float) -> None:
        if asyncio.current_task() is ours:  # the API server's loop, in a thread of this process, may sleep too
            waits.append(seconds)
        else:
            await sleep(seconds)

    monkeypatch.setattr(client.asyncio, "sleep", note)
    fake_api.faults.append(refuse("GET", "/services", 429, "slow down", **{"Retry-After": "5"}))
    for _ in range(10):
        with pytest.raises(ApiError, match="slow down"):
            await cluster.call("GET", PATH, attempts=2)
    assert len(set(waits)) == 10
    assert 5 <= min(waits) <= max(waits) <= 6.25


@pytest.mark.parametrize(("header", "seconds"), [("1.5", 1.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("9e9", 30.0)])
def test_retry_after_is_bounded_and_nonsense_is_no_delay(header: str, seconds: float) -> None:
    assert client._retry_after({"Retry-After": header}) == seconds


async def test_a_call_that_hangs_fails_at_its_deadline(
    fake_api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_api.frozen = True  # a watch that shows nothing is a call that never ends
    started = time.monotonic()
    with pytest.raises(ApiError, match="cannot be reached"):
        await cluster.call("GET", "/api/v1/services", query={"watch": "true"}, attempts=1, timeout_seconds=0.3)
    assert time.monotonic() - started < client.CALL_SECONDS, "its own deadline, not that of any call"


@pytest.mark.parametrize("text", ["<html>", "[1]"])
async def test_an_answer_that_is_no_object_is_an_error(fake_api: FakeApi, cluster: Cluster, text: str) -> None:
    fake_api.faults.append(lambda _: web.Response(text=text))
    with pytest.raises(ApiError, match="502"):
        await cluster.call("GET", PATH, attempts=1)


async def test_a_proxys_page_is_cut_short(fake_api: FakeApi, cluster: Cluster) -> None:
    fake_api.faults.append(lambda _: web.Response(text="x" * 100_000, status=400))
    with pytest.raises(ApiError) as caught:
        await cluster.call("GET", PATH)
    assert len(caught.value.sentence) == 1000


async def test_without_credentials_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(ApiError, match="No credentials"):
        await Cluster.connect()


async def test_a_pods_service_account_goes_before_a_kubeconfig(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token = tmp_path_factory.mktemp("account") / "token"
    token.write_text("t")
    monkeypatch.setattr(client, "_SERVICE_ACCOUNT", token)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ApiError, match="Service host/port is not set"):
        await Cluster.connect()


async def test_credentials_name_the_server_and_the_token(fake_api: FakeApi, cluster: Cluster) -> None:
    known = await cluster.credentials()
    assert (known.server, known.token) == (fake_api.url, "fake-token")
