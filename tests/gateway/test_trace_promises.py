"""What traces promise: as many as were asked for, the caller's decision first, and never a word of what was said."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from gateway_world import CLIENT_SECONDS, KEY, World, open_world
from journaled import End, Journaled
from otlp import Collector, collector
from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1.inference_pb2_grpc import InferenceStub
from ryzanstein_gateway.exchange import Exchange
from ryzanstein_gateway.tracing import Tracing
from ryzanstein_worker.contract import CHAT_COMPLETIONS, REALTIME

PARENT = "b7ad6b7169203331"
SECRET = "nobody may read this prompt"
ANSWER = "nor this answer"


def environ(monkeypatch: pytest.MonkeyPatch, kept: Collector, sampler: str = "", argument: str = "") -> None:
    wanted = kept.environment | {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    for name, value in wanted.items():
        if value:
            monkeypatch.setenv(name, value)


def exchange(traceparent: str = "") -> Exchange:
    headers = [(b"traceparent", traceparent.encode())] if traceparent else []
    one = Exchange("POST", CHAT_COMPLETIONS, headers, "r")
    one.status = 200
    return one


async def run(tracing: Tracing, one: Exchange) -> list[tuple[bytes, bytes]]:
    """One request's spans; what its replica is sent."""
    one.trace = tracing.begin(one, CHAT_COMPLETIONS, "demo")
    one.trace.admitted()
    with one.trace.attempt("pod", "10.0.0.1", 8000) as attempt:
        sent = attempt.carry([])
        attempt.ended("answered", 3)
    tracing.end(one)
    return sent


async def test_as_large_a_part_is_sampled_as_was_asked_for_and_each_trace_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collector() as kept:
        environ(monkeypatch, kept, "parentbased_traceidratio", "0.25")
        tracing = Tracing(0, {})
        exchanges = [exchange() for _ in range(400)]
        for one in exchanges:
            await run(tracing, one)
        await tracing.close()
        await asyncio.to_thread(kept.wait, 3 * sum(one.trace.sampled for one in exchanges))
    traces = {span.trace_id for span in kept.spans}
    assert 60 < len(traces) < 145, "a quarter of 400, five standard deviations each way"
    assert len(kept.spans) == 3 * len(traces)
    assert traces == {one.trace.id for one in exchanges if one.trace.sampled}, "what exemplars name is kept"


@pytest.mark.parametrize(("flag", "ratio", "kept_spans"), [("00", "1.0", 0), ("01", "0.0", 3)])
async def test_the_callers_decision_is_followed_and_handed_on(
    monkeypatch: pytest.MonkeyPatch, flag: str, ratio: str, kept_spans: int
) -> None:
    with collector() as kept:
        environ(monkeypatch, kept, "parentbased_traceidratio", ratio)
        tracing = Tracing(0, {})
        trace = "0af7651916cd43dd8448eb211c80319c"
        one = exchange(f"00-{trace}-{PARENT}-{flag}")
        ((_, sent),) = await run(tracing, one)
        await tracing.close()
        await asyncio.to_thread(kept.wait, kept_spans)
    assert len(kept.spans) == kept_spans
    _, same, _, decision = sent.decode().split("-")
    assert (same, decision, one.trace.id) == (trace, flag, trace), "logs name the trace in either case"


async def echoing(request: web.Request) -> web.StreamResponse:
    """A replica that repeats what it was asked, in an answer or in an error."""
    body = await request.json()
    if not body.get("max_tokens"):
        return web.json_response({"error": {"message": f"cannot read {SECRET}", "code": SECRET}}, status=400)
    message = {"role": "assistant", "content": f"{SECRET} {ANSWER}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "demo", "choices": [choice]}
    return web.json_response(answer | {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})


async def say_everything(world: World) -> None:
    """Requests over all protocols that end well, end in an error, are lost, and are none."""
    ask: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": SECRET}]}
    for body in (ask, ask | {"max_tokens": 4}, ask | {"user": SECRET, "stop": SECRET}, ask | {"model": SECRET}):
        await world.client.post(f"/v1/chat/completions?api_key={KEY}", json=body)
    await world.client.post("/v1/chat/completions", content=SECRET.encode())
    headers = {"authorization": f"Bearer {KEY}"}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
        for tokens in (0, 4):
            sampling = pb.Sampling(max_tokens=tokens) if tokens else None
            message = pb.Message(role=pb.ROLE_USER, content=SECRET)
            call = pb.ChatRequest(model="demo", messages=[message], sampling=sampling)
            try:
                await InferenceStub(channel).Chat(call, metadata=tuple(headers.items()), timeout=CLIENT_SECONDS)
            except grpc.aio.AioRpcError:
                assert not tokens
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    async with connect(url, additional_headers=headers, proxy=None) as socket, asyncio.timeout(CLIENT_SECONDS):
        for number, more in enumerate(({}, {"max_tokens": 4})):
            create = {"type": "create", "id": f"{SECRET} {number}", "kind": "chat", "request": ask | more}
            await socket.send(json.dumps(create))
            while json.loads(await socket.recv())["type"] == "event":
                pass


async def test_no_prompt_no_answer_and_no_key_is_in_any_span_of_any_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        environ(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            ones = [await world.add_replica() for _ in range(2)]
            for one in ones:
                one.answer = echoing
            await world.route("demo")
            await world.endpoints("demo", ones)
            await say_everything(world)
            once = [End.RESET]
            for one in ones:
                one.answer = Journaled(ends=once, end_after=3).answer
            body = {"model": "demo", "messages": [{"role": "user", "content": SECRET}], "stream": True, "max_tokens": 6}
            assert (await world.ask(**body)).text.endswith("data: [DONE]\n\n")
            salts = {received[0].get("x-ryzanstein-cache-salt", "none") for one in ones for received in one.received}
        # Of 11 requests (the WebSocket's own, too), 8 of which came into the queue and one was sent twice.
        await asyncio.to_thread(kept.wait, 11 + 8 + 9)
    assert {span.attributes["network.protocol.name"] for span in kept.spans if span.parent_id == ""} == {
        "http", "grpc", "websocket",
    }  # fmt: skip
    assert any(name == "migration" for span in kept.spans for name, _ in span.events), "a loss was among them"
    assert salts
    for word in (SECRET, ANSWER, KEY, *salts):
        assert word.encode() not in kept.raw, word
