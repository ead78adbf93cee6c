"""The gateway's gRPC: the same requests, refusals and ends as over REST, in protocol buffers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway_world import KEY, World, open_world, until
from replica import Replica, event_stream
from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1.inference_pb2_grpc import InferenceStub
from ryzanstein.v1.methods import METHODS, SERVICE
from ryzanstein.v1.status import ERROR_METADATA
from ryzanstein_gateway.grpc_api import OPEN_METHODS
from ryzanstein_worker.contract import HEADER_CACHE_SALT

CHAT = pb.ChatRequest(model="demo", messages=[pb.Message(role=pb.ROLE_USER, content="hi")])
Key = tuple[tuple[str, str], ...]
RIGHT: Key = (("authorization", f"Bearer {KEY}"),)


@asynccontextmanager
async def dial(world: World, *options: tuple[str, Any]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the gateway, with a connection of its own."""
    own = ("grpc.use_local_subchannel_pool", 1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}", options=[own, *options]) as channel:
        yield channel


async def one_replica(world: World) -> Replica:
    one = await world.add_replica()
    await world.route("demo", max_model_len=512)
    await world.endpoints("demo", [one])
    return one


def error_of(error: grpc.aio.AioRpcError) -> pb.Error:
    return pb.Error.FromString(dict(error.trailing_metadata())[ERROR_METADATA])  # type: ignore[arg-type]


async def whole(call: Any) -> list[Any]:
    """All answers of a call, of one or of many."""
    async with asyncio.timeout(40):
        return [answer async for answer in call] if hasattr(call, "__aiter__") else [await call]


async def fails(call: Any, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await whole(call)
    assert failed.value.code() is code, failed.value
    return failed.value


async def test_whole_and_streamed_answers_carry_what_rest_does(world: World) -> None:
    replica = await one_replica(world)
    async with dial(world) as channel:
        stub = InferenceStub(channel)
        answer = await stub.Chat(CHAT, metadata=RIGHT)
        chunks = [chunk async for chunk in stub.StreamChat(CHAT, metadata=RIGHT)]
    assert answer.choices[0].message == pb.Message(role=pb.ROLE_ASSISTANT, content="127.0.0.2")
    assert answer.choices[0].finish_reason == pb.FINISH_REASON_STOP
    assert [chunk.choices[0].delta.content for chunk in chunks] == [f"127.0.0.2-{number} " for number in range(3)]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [0, 0, pb.FINISH_REASON_STOP]
    bodies = [json.loads(body) for _, body in replica.received]
    message = {"role": "user", "content": "hi"}
    assert bodies == [{"model": "demo", "stream": stream, "messages": [message]} for stream in (False, True)]


async def test_ids_and_traces_pass_and_a_clients_salt_does_not(world: World) -> None:
    replica = await one_replica(world)
    sent = (("x-request-id", "job-7"), ("traceparent", "00-1-2-01"), (HEADER_CACHE_SALT, "mine"))
    async with dial(world) as channel:
        call = InferenceStub(channel).Chat(CHAT, metadata=(*RIGHT, *sent))
        assert ("x-request-id", "job-7") in tuple(await call.initial_metadata())
        await call
    headers = {name.lower(): value for name, value in replica.received[0][0].items()}
    assert (headers["x-request-id"], headers["traceparent"]) == ("job-7", "00-1-2-01")
    assert headers[HEADER_CACHE_SALT] not in ("", "mine")
    assert "authorization" not in headers


async def test_models_are_those_of_the_key(world: World) -> None:
    await world.route("demo", max_model_len=512)
    await world.route("secret", key_sets=["team-b"])
    async with dial(world) as channel:
        answer = await InferenceStub(channel).ListModels(pb.ListModelsRequest(), metadata=RIGHT)
    assert answer.models == [pb.Model(id="demo", owned_by="ryzanstein", max_model_len=512)]


WRONG: list[Key] = [
    (),
    (("authorization", ""),),
    (("authorization", "Bearer wrong"),),
    (("authorization", f"Basic {KEY}"),),
    (("authorization", KEY),),
    (*RIGHT, *RIGHT),
    (("x-api-key", KEY),),
]


async def test_no_method_but_the_open_one_answers_without_a_valid_key(world: World) -> None:
    await world.route("demo")
    named = [method.full_name for method in METHODS]
    health = [f"/grpc.health.v1.Health/{name}" for name in ("Watch", "List")]
    others = ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", f"/{SERVICE}/Nothing", "/no.Such/Thing"]
    async with dial(world) as channel:
        for method in (*named, *health, *others):
            for key in WRONG:
                error = await fails(
                    channel.unary_stream(method)(b"", metadata=key, timeout=30), grpc.StatusCode.UNAUTHENTICATED
                )
                assert error_of(error).code == "invalid_api_key"
                assert "x-request-id" in dict(error.trailing_metadata())
            # and without a message to wait for
            await fails(channel.stream_stream(method)(timeout=30), grpc.StatusCode.UNAUTHENTICATED)
        assert list(OPEN_METHODS) == ["/grpc.health.v1.Health/Check"]
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    counted = (len(named) + len(health) + len(others)) * (len(WRONG) + 1)
    assert await world.metric("ryzanstein_gateway_auth_failures_total") == counted


async def test_reflection_describes_the_service(world: World) -> None:
    async with dial(world) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        call = stub.ServerReflectionInfo(iter([request]), metadata=RIGHT)
        answer = await call.read()
    pool = DescriptorPool()
    for file in answer.file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(file)
    assert [method.name for method in pool.FindServiceByName(SERVICE).methods] == [method.name for method in METHODS]


async def test_a_method_that_is_not_there_is_unimplemented(world: World) -> None:
    async with dial(world) as channel:
        await fails(channel.unary_unary(f"/{SERVICE}/Nothing")(b"", metadata=RIGHT), grpc.StatusCode.UNIMPLEMENTED)


def _refuses(status: int, code: str, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.StreamResponse:
        error = {"message": "Because.", "type": "invalid_request_error", "param": "n", "code": code}
        return web.json_response({"error": error}, status=status, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (404, grpc.StatusCode.NOT_FOUND),
        (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (422, grpc.StatusCode.FAILED_PRECONDITION),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_workers_refusal_keeps_its_sentence_and_gets_its_status(
    world: World, status: int, code: grpc.StatusCode
) -> None:
    replica = await one_replica(world)
    replica.answer = _refuses(status, "because", **{"retry-after": "7"})
    async with dial(world) as channel:
        stub = InferenceStub(channel)
        for call in (stub.Chat(CHAT, metadata=RIGHT), stub.StreamChat(CHAT, metadata=RIGHT)):
            error = await fails(call, code)
            assert error.details() == "Because."
            assert error_of(error) == pb.Error(
                message="Because.", type="invalid_request_error", param="n", code="because"
            )
            assert dict(error.trailing_metadata())["retry-after"] == "7"


async def test_the_gateways_own_refusals(world: World) -> None:
    replica = await one_replica(world)
    async with dial(world) as channel:
        chat = InferenceStub(channel).Chat
        cases = [
            (pb.ChatRequest(), grpc.StatusCode.INVALID_ARGUMENT, "missing_model"),
            (pb.ChatRequest(model="nobody"), grpc.StatusCode.NOT_FOUND, "model_not_found"),
        ]
        for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"):
            for value in (float("nan"), float("inf"), -float("inf")):
                odd = pb.ChatRequest(model="demo", sampling=pb.Sampling(**{name: value}))
                cases.append((odd, grpc.StatusCode.INVALID_ARGUMENT, "invalid_value"))
        for request, code, word in cases:
            error = await fails(chat(request, metadata=RIGHT), code)
            assert error_of(error).code == word
        assert not replica.received
        replica.not_started = "overloaded"
        error = await fails(chat(CHAT, metadata=RIGHT), grpc.StatusCode.UNAVAILABLE)
        assert error_of(error).code == "overloaded"
        assert "retry-after" in dict(error.trailing_metadata())


async def test_bytes_that_are_no_message_are_the_callers_fault(world: World) -> None:
    await world.route("demo")
    text = b"\x0a\x04de\xc0\xaf"  # the model's name, overlong UTF-8
    async with dial(world) as channel:
        for raw in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", text, b"\x0a\x03\xed\xa0\x80", b"\x22" * 50_000):
            call = channel.unary_unary(f"/{SERVICE}/Chat")(raw, metadata=RIGHT)
            error = await fails(call, grpc.StatusCode.INVALID_ARGUMENT)
            assert "Exception" not in (error.details() or "")


async def test_messages_and_metadata_are_bounded_and_nothing_is_unpacked(world: World) -> None:
    await one_replica(world)
    big = pb.ChatRequest(model="demo", messages=[pb.Message(role=pb.ROLE_USER, content="x" * (9 << 20))])
    async with dial(world) as channel:
        stub = InferenceStub(channel)
        await fails(stub.Chat(big, metadata=RIGHT), grpc.StatusCode.RESOURCE_EXHAUSTED)
        packed = stub.Chat(CHAT, metadata=RIGHT, compression=grpc.Compression.Gzip)
        await fails(packed, grpc.StatusCode.UNIMPLEMENTED)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Chat(CHAT, metadata=(*RIGHT, ("x-pad", "x" * (1 << 20))))
        assert (await stub.Chat(CHAT, metadata=RIGHT)).choices


async def test_a_stream_that_breaks_is_not_ok(world: World) -> None:
    replica = await one_replica(world)

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(replica.piece("demo", 0))
        assert request.transport is not None
        request.transport.abort()
        return response

    async def errs(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(replica.piece("demo", 0))
        await response.write(b'event: error\ndata: {"error": {"message": "Oh.", "code": "engine_error"}}\n\n')
        return response

    async def babbles(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(b'data: {"choices": [{"surprise": 1}]}\n\ndata: [DONE]\n\n')
        return response

    async with dial(world) as channel:
        stub = InferenceStub(channel)
        for answer, code in (
            (breaks, grpc.StatusCode.UNAVAILABLE),
            (errs, grpc.StatusCode.INTERNAL),
            (babbles, grpc.StatusCode.UNAVAILABLE),
        ):
            replica.answer = answer
            await fails(stub.StreamChat(CHAT, metadata=RIGHT), code)


async def test_cancelling_and_a_deadline_end_the_work_within_a_second(world: World) -> None:
    replica = await one_replica(world)
    replica.step = asyncio.Semaphore(1)
    async with dial(world) as channel:
        stub = InferenceStub(channel)
        call = stub.StreamChat(CHAT, metadata=RIGHT)
        assert await call.read()
        call.cancel()
        await until(lambda: replica.running == 0, "the cancelled work has ended", 1)
        for late in (stub.Chat(CHAT, metadata=RIGHT, timeout=0.3), stub.StreamChat(CHAT, metadata=RIGHT, timeout=0.3)):
            await fails(late, grpc.StatusCode.DEADLINE_EXCEEDED)
            await until(lambda: replica.running == 0, "the late work has ended", 1)
        await fails(stub.Chat(CHAT, metadata=RIGHT, timeout=1e-6), grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_slow_reader_slows_its_own_stream_and_nobody_elses(world: World) -> None:
    replica = await one_replica(world)
    sent = 0

    async def floods(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = await event_stream(request)
        delta = {"choices": [{"index": 0, "delta": {"content": "x" * 4000}}]}
        chunk = json.dumps({"id": "x", "created": 1, "model": "demo"} | delta).encode()
        for _ in range(20_000):  # 80 MB, far beyond what a connection holds
            await response.write(b"data: " + chunk + b"\n\n")
            sent += 1
        return response

    replica.answer = floods
    async with dial(world) as slow:
        call = InferenceStub(slow).StreamChat(CHAT, metadata=RIGHT)
        assert await call.read()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 10_000, "the replica was slowed down"
        replica.answer = None
        async with dial(world) as quick:
            assert (await InferenceStub(quick).Chat(CHAT, metadata=RIGHT)).choices
        call.cancel()


async def test_draining_says_so_lets_calls_end_and_takes_no_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grace is long enough for all that has to be seen in it, though the machine stands still meanwhile.
    grace: dict[str, Any] = {"drain_grace_seconds": 4, "drain_seconds": 30}
    async with open_world(tmp_path, monkeypatch, **grace) as world, dial(world) as channel:
        replica = await one_replica(world)
        replica.step = step = asyncio.Semaphore(1)
        stub, health = InferenceStub(channel), health_pb2_grpc.HealthStub(channel)
        call = stub.StreamChat(CHAT, metadata=RIGHT)
        assert await call.read()
        world.stop.set()
        await until(lambda: world.gateway.draining, "draining")
        async with asyncio.timeout(20):
            while (await health.Check(health_pb2.HealthCheckRequest())).status == 1:
                await asyncio.sleep(0.01)
        replica.step = None
        assert (await stub.Chat(CHAT, metadata=RIGHT)).choices  # not everybody has heard yet
        async with asyncio.timeout(20):
            while (code := await once(world)) is grpc.StatusCode.OK:
                await asyncio.sleep(0.1)
        assert code is grpc.StatusCode.UNAVAILABLE
        for _ in range(2):
            step.release()
            assert await call.read()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        async with asyncio.timeout(20):
            await world.run


async def once(world: World) -> grpc.StatusCode:
    """How a call over a new connection ends."""
    async with dial(world) as fresh:
        return await InferenceStub(fresh).Chat(CHAT, metadata=RIGHT, timeout=20).code()


async def test_what_outlasts_the_drain_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, drain_seconds=1) as world, dial(world) as channel:
        replica = await one_replica(world)
        replica.step = asyncio.Semaphore(1)
        call = InferenceStub(channel).StreamChat(CHAT, metadata=RIGHT)
        assert await call.read()
        world.stop.set()
        async with asyncio.timeout(30):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_open_gateways_ask_for_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, auth_required=False) as world, dial(world) as channel:
        await one_replica(world)
        assert (await InferenceStub(channel).Chat(CHAT)).choices


async def test_a_grpc_port_in_use_is_told_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second").mkdir()
    with pytest.raises(OSError, match="in use"):
        async with open_world(tmp_path / "second", monkeypatch, grpc_port=world.gateway.grpc_port):
            pass
