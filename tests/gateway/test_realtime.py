"""Many requests over one WebSocket: by id, interleaved, cancelled one by one, bounded, and to the end when draining."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode

from gateway_world import KEY, World, open_world, until
from replica import Replica, event_stream
from ryzanstein_worker.contract import REALTIME

CHAT: dict[str, Any] = {"model": "demo", "messages": [], "stream": True}


@asynccontextmanager
async def dial(world: World, path: str = REALTIME, key: str = KEY, **options: Any) -> AsyncIterator[ClientConnection]:
    """An open socket to the gateway."""
    url = f"ws://127.0.0.1:{world.gateway.port}{path}"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with connect(url, additional_headers=headers, compression=None, proxy=None, **options) as one:
        yield one


async def say(one: ClientConnection, **message: Any) -> None:
    await one.send(json.dumps(message))


async def create(one: ClientConnection, name: str, request: dict[str, Any] = CHAT, kind: str = "chat") -> None:
    await say(one, type="create", id=name, kind=kind, request=request)


async def hear(one: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(20):
        message: dict[str, Any] = json.loads(await one.recv())
        return message


async def hear_all(one: ClientConnection, *names: str) -> dict[str, list[dict[str, Any]]]:
    """The messages of each id until all have had their last."""
    heard: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    open_names = set(names)
    while open_names:
        message = await hear(one)
        heard[message["id"]].append(message)
        if message["type"] != "event":
            open_names.remove(message["id"])
    return heard


def text(messages: list[dict[str, Any]]) -> str:
    return "".join(one["data"]["choices"][0]["delta"]["content"] for one in messages if one["type"] == "event")


async def one_replica(world: World) -> Replica:
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    return one


async def closed(one: ClientConnection) -> int:
    """The code with which the other side closes."""
    async with asyncio.timeout(20):
        with suppress(ConnectionClosed):
            while True:
                await one.recv()
    assert one.close_code is not None
    return one.close_code


async def test_requests_over_one_socket_get_what_their_rest_twins_get_each_under_its_id(world: World) -> None:
    replica = await one_replica(world)
    async with dial(world) as one:
        for name in ("a", "b"):
            await create(one, name)
        await create(one, "whole", {"model": "demo", "messages": []})
        heard = await hear_all(one, "a", "b", "whole")
    assert [message["type"] for message in heard["a"]] == ["event"] * 3 + ["done"]
    assert text(heard["a"]) == text(heard["b"]) == "127.0.0.2-0 127.0.0.2-1 127.0.0.2-2 "
    assert heard["whole"][0]["data"] == replica.unary("demo")
    assert heard["whole"][1]["type"] == "done"
    assert json.loads(replica.received[0][1]) == CHAT
    assert {headers["Content-Type"] for headers, _ in replica.received} == {"application/json"}


async def test_each_request_has_an_id_of_its_own_derived_from_the_handshakes(world: World) -> None:
    replica = await one_replica(world)
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "job-7", "traceparent": "00-1-2-01"}
    async with connect(url, additional_headers=headers, proxy=None) as one:
        assert one.response is not None
        assert one.response.headers["x-request-id"] == "job-7"
        await create(one, "a")
        await create(one, "b")
        heard = await hear_all(one, "a", "b")
    assert {heard[name][-1]["request_id"] for name in "ab"} == {"job-7.1", "job-7.2"}
    sent = [{name.lower(): value for name, value in headers.items()} for headers, _ in replica.received]
    assert {headers["x-request-id"] for headers in sent} == {"job-7.1", "job-7.2"}
    assert {headers["traceparent"] for headers in sent} == {"00-1-2-01"}


async def test_streams_take_turns(world: World) -> None:
    replica = await one_replica(world)
    replica.tokens, replica.step = 20, asyncio.Semaphore(0)
    async with dial(world) as one:
        await create(one, "a")
        await create(one, "b")
        await until(lambda: replica.running == 2, "both run", 20)
        for _ in range(40):
            replica.step.release()
            await asyncio.sleep(0)
        order: list[str] = []
        while len(order) < 40:
            message = await hear(one)
            if message["type"] == "event":
                order.append(message["id"])
    half = order[:20].count("a")
    assert 5 <= half <= 15, order


async def test_cancel_ends_one_request_and_its_work_and_leaves_the_others(world: World) -> None:
    replica = await one_replica(world)
    replica.step = asyncio.Semaphore(0)
    async with dial(world) as one:
        await create(one, "a")
        await create(one, "b")
        await until(lambda: replica.running == 2, "both run", 20)
        await say(one, type="cancel", id="a")
        await say(one, type="cancel", id="never-was")
        assert (await hear(one))["type"] == "cancelled"
        await until(lambda: replica.running == 1, "the work of the cancelled one has ended", 20)
        for _ in range(3):
            replica.step.release()
        assert text((await hear_all(one, "b"))["b"]) != ""
        await create(one, "a")  # the name is free again
        for _ in range(3):
            replica.step.release()
        assert (await hear_all(one, "a"))["a"][-1]["type"] == "done"


async def test_a_client_that_leaves_ends_all_its_work(world: World) -> None:
    replica = await one_replica(world)
    replica.step = asyncio.Semaphore(0)
    async with dial(world) as one:
        for name in "abc":
            await create(one, name)
        await until(lambda: replica.running == 3, "all run", 20)
        one.transport.abort()
    await until(lambda: replica.running == 0, "no work is left", 20)


MALFORMED: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "invalid_json"),
    "a list": ("[]", "invalid_json"),
    "empty": ("", "invalid_json"),
    "no type": ('{"id": "a"}', "invalid_message"),
    "another type": ('{"type": "open", "id": "a"}', "invalid_message"),
    "no id": ('{"type": "create", "kind": "chat", "request": {}}', "invalid_message"),
    "an empty id": ('{"type": "cancel", "id": ""}', "invalid_message"),
    "a long id": (json.dumps({"type": "cancel", "id": "x" * 129}), "invalid_message"),
    "a number for an id": ('{"type": "cancel", "id": 1}', "invalid_message"),
    "another kind": ('{"type": "create", "id": "a", "kind": "embedding", "request": {}}', "invalid_message"),
    "one field more": ('{"type": "cancel", "id": "a", "now": true}', "invalid_message"),
    "a key twice": ('{"type": "cancel", "id": "a", "id": "b"}', "invalid_json"),
    "too deep": ('{"type":' + "[" * 100_000 + "]" * 100_000 + "}", "invalid_json"),
    "a lone surrogate": ('{"type": "cancel", "id": "\\ud800"}', "invalid_json"),
}


async def test_malformed_messages_are_answered_and_the_socket_lives_on(world: World) -> None:
    await one_replica(world)
    async with dial(world) as one:
        for name, (message, code) in MALFORMED.items():
            await one.send(message)
            answer = await hear(one)
            assert (answer["type"], answer["id"], answer["status"]) == ("error", None, 400), (name, answer)
            assert answer["error"]["code"] == code, name
            assert set(answer["error"]) == {"message", "type", "param", "code"}
        await create(one, "a")
        assert (await hear_all(one, "a"))["a"][-1]["type"] == "done"


async def test_refusals_of_a_request_are_its_error_and_nobody_elses(world: World) -> None:
    replica = await one_replica(world)
    replica.step = asyncio.Semaphore(0)
    async with dial(world) as one:
        await create(one, "runs")
        await until(lambda: replica.running == 1, "it runs", 20)
        cases: list[tuple[str, dict[str, Any], int, str]] = [
            ("runs", CHAT, 409, "id_in_use"),
            ("other", CHAT | {"model": "nobody"}, 404, "model_not_found"),
            ("nameless", {}, 400, "missing_model"),
            ("big", CHAT | {"pad": "x" * world.settings.max_body_bytes}, 413, "request_too_large"),
        ]
        for name, request, status, code in cases:
            await create(one, name, request)
            answer = await hear(one)
            assert (answer["type"], answer["id"], answer["status"]) == ("error", name, status)
            assert answer["error"]["code"] == code
        replica.not_started = "overloaded"
        await create(one, "later")
        answer = await hear(one)
        assert (answer["status"], answer["retry_after"]) == (503, 2)
        for _ in range(3):
            replica.step.release()
        assert (await hear_all(one, "runs"))["runs"][-1]["type"] == "done"


async def test_one_socket_runs_only_so_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, realtime_max_requests=2) as world:
        replica = await one_replica(world)
        replica.step = asyncio.Semaphore(0)
        async with dial(world) as one:
            for name in "abc":
                await create(one, name)
            answer = await hear(one)
            assert (answer["id"], answer["status"], answer["error"]["code"]) == ("c", 429, "too_many_requests")
            assert len(replica.received) <= 2


async def test_a_stream_that_breaks_ends_with_an_error_and_never_with_done(world: World) -> None:
    replica = await one_replica(world)

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(replica.piece("demo", 0))
        assert request.transport is not None
        request.transport.abort()
        return response

    replica.answer = breaks
    async with dial(world) as one:
        await create(one, "a")
        messages = (await hear_all(one, "a"))["a"]
    assert messages[-1]["type"] == "error"
    assert messages[-1]["error"]["type"] == "server_error"


async def test_a_slow_reader_slows_its_own_requests_and_nobody_elses(world: World) -> None:
    replica = await one_replica(world)
    sent = 0

    async def floods(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = await event_stream(request)
        for _ in range(20_000):  # 80 MB, far beyond what sockets hold
            await response.write(b'data: {"pad":"' + b"x" * 4000 + b'"}\n\n')
            sent += 1
        await response.write(b"data: [DONE]\n\n")
        return response

    replica.answer = floods
    async with dial(world, max_queue=1) as slow:
        await create(slow, "a")
        await until(lambda: sent > 0, "the flood has begun", 20)
        before, still = -1, 0
        while still < 20:  # until nothing moves any more: many looks, for one alone may follow on a standstill of ours
            before, still = sent, still + 1 if before == sent else 0
            await asyncio.sleep(0.02)
        assert 0 < sent < 10_000, "the replica was slowed down"
        replica.answer = None
        async with dial(world) as quick:
            await create(quick, "b")
            assert (await hear_all(quick, "b"))["b"][-1]["type"] == "done"
        slow.transport.abort()


async def test_silence_ends_an_idle_socket_but_none_that_waits_for_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, realtime_idle_seconds=2.0) as world:
        replica = await one_replica(world)
        replica.step = asyncio.Semaphore(0)
        async with dial(world) as one:
            await create(one, "a")
            await asyncio.sleep(2.5)
            for _ in range(3):
                replica.step.release()
            assert (await hear_all(one, "a"))["a"][-1]["type"] == "done"
            assert await closed(one) == 1000


async def test_draining_lets_requests_end_takes_no_new_ones_and_closes_with_1001(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, drain_seconds=30) as world:
        replica = await one_replica(world)
        replica.step = asyncio.Semaphore(1)
        async with dial(world) as one, dial(world) as idle:
            await create(one, "a")
            assert (await hear(one))["type"] == "event"
            world.stop.set()
            assert await closed(idle) == 1001
            await create(one, "b")
            answer = await hear(one)
            assert (answer["id"], answer["error"]["code"]) == ("b", "shutting_down")
            for _ in range(2):
                replica.step.release()
            assert (await hear_all(one, "a"))["a"][-1]["type"] == "done"
            assert await closed(one) == 1001
        async with asyncio.timeout(20):
            await world.run


async def test_what_outlasts_the_drain_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, drain_seconds=1) as world:
        replica = await one_replica(world)
        replica.step = asyncio.Semaphore(1)
        async with dial(world) as one:
            await create(one, "a")
            assert (await hear(one))["type"] == "event"
            world.stop.set()
            answer = await hear(one)
            assert (answer["type"], answer["error"]["code"]) == ("error", "shutting_down")
            assert await closed(one) == 1001


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x"])
async def test_the_handshake_is_refused_without_a_valid_key(world: World, key: str) -> None:
    for path in (REALTIME, "/", "/v1/completions"):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(world, path, key):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "invalid_api_key"


async def test_there_is_one_path_for_sockets(world: World) -> None:
    for path in ("/", "/v1/completions", REALTIME + "/"):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(world, path):
                pass
        assert refused.value.response.status_code == 404


async def _frames(one: ClientConnection, *frames: Frame) -> None:
    """Write frames as they are."""
    one.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))


async def test_binary_messages_close_with_1003(world: World) -> None:
    async with dial(world) as one:
        await one.send(b"{}")
        assert await closed(one) == 1003


async def test_a_text_that_is_no_utf8_closes_with_1007(world: World) -> None:
    async with dial(world) as one:
        await _frames(one, Frame(Opcode.TEXT, b"\xc0\xaf"))
        assert await closed(one) == 1007


async def test_an_oversize_frame_closes_with_1009_before_it_is_read(world: World) -> None:
    async with dial(world) as one:
        head = b"\x81\xff" + (64 << 20).to_bytes(8, "big") + b"mask"
        one.transport.write(head)
        assert await closed(one) == 1009


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.TEXT, b"{", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 1000], 1008),
        ([Frame(Opcode.PING, b"x")] * 200, 1008),
        ([Frame(Opcode.PONG, b"x")] * 200, 1008),
        ([Frame(Opcode.CONT, b"x")], 1002),
        ([Frame(Opcode.TEXT, b"{", fin=False), Frame(Opcode.TEXT, b"}")], 1002),
    ],
    ids=["fragments", "pings", "pongs", "continuation of nothing", "text within a text"],
)
async def test_floods_and_broken_framing_close_the_socket_with_its_code(
    world: World, frames: list[Frame], code: int
) -> None:
    async with dial(world) as one:
        await _frames(one, *frames)
        assert await closed(one) == code


async def test_a_message_in_many_frames_is_one_message(world: World) -> None:
    await one_replica(world)
    message = json.dumps({"type": "create", "id": "a", "kind": "chat", "request": CHAT})
    async with dial(world) as one:
        await one.send([message[at : at + 1] for at in range(len(message))])
        assert (await hear_all(one, "a"))["a"][-1]["type"] == "done"


async def test_sockets_count_as_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, max_connections=1) as world, dial(world):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(world):
                pass
        assert refused.value.response.status_code == 503


async def test_a_handshake_of_a_megabyte_is_refused(world: World) -> None:
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    headers = {"authorization": f"Bearer {KEY}", "x-pad": "x" * (1 << 20)}
    # The gateway hangs up on what it does not read: the reset may overtake its answer.
    with pytest.raises((InvalidStatus, InvalidMessage, ConnectionError)):
        async with connect(url, additional_headers=headers, proxy=None):
            pass


async def test_a_client_that_hangs_up_mid_frame_leaves_nothing(world: World) -> None:
    async with dial(world) as one:
        one.transport.write(b"\x81\xfe\x00\xffmask{")
        raw: socket.socket = one.transport.get_extra_info("socket")
        assert raw is not None
        one.transport.abort()
    async with dial(world) as one:
        await say(one, type="cancel", id="x")
        pong = await one.ping()
        async with asyncio.timeout(20):
            await pong
