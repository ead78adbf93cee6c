"""What a client sees through the gateway, with real replicas behind it."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from gateway_world import KEY, World, until
from replica import Replica, event_stream
from ryzanstein_worker.contract import HEADER_CACHE_SALT, HEADER_REQUEST_ID

ASK: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


async def one_replica(world: World) -> Replica:
    """The model `demo` with one replica."""
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    return one


async def test_body_passes_unchanged_and_no_credential_does(world: World) -> None:
    one = await one_replica(world)
    body = b'{ "unknown":1.50,\n"model" : "demo", "messages":[] }'
    headers = {"content-type": "application/json; charset=utf-8", HEADER_CACHE_SALT: "mine", "cookie": "a=b"}
    reply = await world.client.post("/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 200
    assert reply.json() == one.unary("demo")
    seen, passed = one.received[0]
    assert passed == body
    lower = {name.lower(): value for name, value in seen.items()}
    assert not {"authorization", "cookie"} & lower.keys()
    assert KEY not in str(lower)
    assert len(lower[HEADER_CACHE_SALT]) == 64
    assert lower[HEADER_CACHE_SALT] != "mine"


async def test_status_and_type_of_a_replicas_error_are_kept_and_its_internal_headers_are_not(world: World) -> None:
    one = await one_replica(world)

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=400,
            body=b'{"error":{"message":"no"}}',
            headers={
                "content-type": "application/json",
                "x-ryzanstein-not-started": "x",
                "connection": "x-hop",
                "x-hop": "1",
            },
        )

    one.answer = refuse
    reply = await world.ask(**ASK)
    assert (reply.status_code, reply.content) == (400, b'{"error":{"message":"no"}}')
    assert reply.headers["content-type"] == "application/json"
    assert not {"x-ryzanstein-not-started", "x-hop", "server"} & reply.headers.keys()


async def test_request_id_is_kept_when_harmless_else_made(world: World) -> None:
    one = await one_replica(world)
    for given, kept in (("abc-1.2:3", True), ("a" * 129, False), ('x"y', False)):
        reply = await world.client.post("/v1/chat/completions", json=ASK, headers={HEADER_REQUEST_ID: given})
        assert (reply.headers[HEADER_REQUEST_ID] == given) is kept
        upstream = {name.lower(): value for name, value in one.received[-1][0].items()}
        assert upstream[HEADER_REQUEST_ID] == reply.headers[HEADER_REQUEST_ID]


async def test_first_token_reaches_the_client_before_the_second_exists(world: World) -> None:
    one = await one_replica(world)
    one.step = asyncio.Semaphore(1)
    async with (
        asyncio.timeout(20),
        world.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply,
    ):
        pieces = reply.aiter_raw()
        got = b""
        for index in range(one.tokens):
            piece = await anext(pieces)
            assert piece.startswith(one.piece("demo", index))
            got += piece
            one.step.release()
        got += b"".join([rest async for rest in pieces])
        assert got.endswith(b"}\n\ndata: [DONE]\n\n")


async def test_openai_client_works_through_the_gateway(world: World) -> None:
    one = await one_replica(world)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{world.client.base_url}/v1", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["demo"]
        whole = await client.chat.completions.create(**ASK)
        assert whole.choices[0].message.content == one.host
        stream = await client.chat.completions.create(**ASK, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "".join(f"{one.host}-{index} " for index in range(one.tokens))


async def test_refused_connection_goes_to_another_replica_and_the_refuser_is_avoided(world: World) -> None:
    dead, alive = await world.add_replica(), await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [dead, alive])
    await dead.stop()
    replies = [await world.ask(**ASK) for _ in range(8)]
    assert [reply.status_code for reply in replies] == [200] * 8
    assert len(alive.received) == 8
    assert (
        await world.metric('ryzanstein_gateway_upstream_retries_total{reason="refused"}') == 1
    )  # the breaker kept it to one


async def test_a_request_that_was_not_started_goes_to_another_replica(world: World) -> None:
    for word in ("draining", "overloaded"):
        busy, idle = await world.add_replica(), await world.add_replica()
        await world.route("demo")
        await world.endpoints("demo", [busy, idle])
        busy.not_started = word
        for _ in range(4):
            assert (await world.ask(**ASK)).json() == idle.unary("demo")
        assert busy.received, "the busy one was never asked: nothing is shown"


async def test_at_most_three_replicas_are_tried_and_overload_is_said(world: World) -> None:
    crowd = [await world.add_replica() for _ in range(5)]
    await world.route("demo")
    await world.endpoints("demo", crowd)
    for one in crowd:
        one.not_started = "overloaded"
    reply = await world.ask(**ASK)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
    assert reply.headers["retry-after"] == "2"
    assert sum(len(one.received) for one in crowd) == 3


async def test_an_error_that_a_replica_tells_is_passed_on_and_not_tried_again(world: World) -> None:
    first, second = await world.add_replica(), await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [first, second])

    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    first.answer = second.answer = fail
    assert (await world.ask(**ASK)).status_code == 503
    assert len(first.received) + len(second.received) == 1


async def test_no_ready_replica_is_503_with_retry_after(world: World) -> None:
    await world.route("demo", maxQueuedRequests=0)
    reply = await world.ask(**ASK)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_ready_replica")
    assert int(reply.headers["retry-after"]) > 0


async def broken_stream(world: World, answer: Any) -> bytes:
    """What a client gets of a stream whose replica answers so; the connection must break."""
    one = await one_replica(world)
    one.answer = answer
    got = b""
    try:
        async with world.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
            assert reply.status_code == 200
            async for piece in reply.aiter_raw():
                got += piece
    except httpx.RemoteProtocolError:
        return got
    raise AssertionError("the broken stream looked whole")


def typed_error(got: bytes) -> str:
    """The code in the last event, which must be an error."""
    last = got.strip().split(b"\n\n")[-1].removeprefix(b"data: ")
    error: dict[str, Any] = json.loads(last)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


async def test_a_replica_that_dies_in_mid_stream_ends_in_a_typed_error_without_done(world: World) -> None:
    async def die(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(b'data: {"a":1}\n\ndata: {"half')
        assert request.transport is not None
        request.transport.close()
        return response

    got = await broken_stream(world, die)
    assert got.startswith(b'data: {"a":1}\n\n')
    assert b"[DONE]" not in got
    assert typed_error(got) == "upstream_error"


async def test_a_stream_that_ends_without_done_is_an_error_too(world: World) -> None:
    async def stop_short(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(b'data: {"a":1}\n\n')
        return response

    assert typed_error(await broken_stream(world, stop_short)) == "upstream_error"


async def within_a_second(event: asyncio.Event) -> None:
    """Looks a hundred times, a hundredth of a second apart: while this process stands still, so does the second."""
    for _ in range(100):
        if event.is_set():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within a second")


async def test_disconnect_reaches_the_replica_within_a_second(world: World) -> None:
    one = await one_replica(world)
    one.step = asyncio.Semaphore(1)
    async with world.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
        await anext(reply.aiter_raw())
    await within_a_second(one.left)
    await until(lambda: not world.gateway._fleet.in_flight(), "nothing is counted in flight", 20)

    one.left.clear()
    unary = asyncio.create_task(world.ask(**ASK))
    await until(lambda: one.running == 1, "the replica has the request", 20)
    unary.cancel()
    await within_a_second(one.left)
    await until(lambda: one.running == 0, "the replica is idle", 20)
    async with asyncio.timeout(20):  # the gateway counts them in its own time
        while await world.metric('ryzanstein_gateway_requests_total{code="499",model="demo",protocol="http"}') != 2:
            await asyncio.sleep(0.01)


async def test_load_spreads_by_requests_in_flight(world: World) -> None:
    crowd = [await world.add_replica() for _ in range(3)]
    await world.route("demo")
    await world.endpoints("demo", crowd)
    gates = [asyncio.Semaphore(0) for _ in crowd]
    for one, gate in zip(crowd, gates, strict=True):
        one.step = gate
    asks = [asyncio.create_task(world.ask(**ASK)) for _ in range(9)]
    await until(lambda: sum(one.running for one in crowd) == 9, "all have arrived", 20)
    assert [one.running for one in crowd] == [3, 3, 3]
    for gate in gates * 3:
        gate.release()
    assert {reply.status_code for reply in await asyncio.gather(*asks)} == {200}


async def test_a_fault_of_the_gateway_itself_is_a_500_that_tells_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_replica(world)
    monkeypatch.setattr(world.gateway._fleet, "pick", lambda *_: 1 / 0)
    reply = await world.ask(**ASK)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in reply.text
    assert (await world.client.get("/v1/models")).status_code == 200
