"""Traces: what a collector is sent of requests, and that nothing is made, and nobody waits, where none is wanted."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect

from gateway_process import GatewayProcess, announce, gateway_process
from gateway_world import KEY, World, open_world
from journaled import End, Journaled
from otlp import Collector, Span, collector
from processes import until
from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1.inference_pb2_grpc import InferenceStub
from ryzanstein_gateway.settings import read_settings
from ryzanstein_gateway.trace import UNTRACED, is_enabled
from ryzanstein_worker.contract import REALTIME
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
SERVER, CLIENT = 2, 3
ERROR = 2
SECRET = "nobody may read this"
STREAM: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": SECRET}], "stream": True}


async def spans_of(kept: Collector, count: int) -> list[Span]:
    """Wait for them off the event loop."""
    return await asyncio.to_thread(kept.wait, count)


def by_name(spans: list[Span], name: str) -> Span:
    """The one span of this name."""
    (found,) = [span for span in spans if span.name == name]
    return found


def traced(monkeypatch: pytest.MonkeyPatch, kept: Collector) -> None:
    for name, value in kept.environment.items():
        monkeypatch.setenv(name, value)


async def test_a_request_is_one_trace_from_the_clients_on_and_the_replica_gets_the_try_as_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            one = await world.add_replica()
            await world.route("demo")
            await world.endpoints("demo", [one])
            reply = await world.client.post("/v1/chat/completions", json=STREAM, headers=TRACEPARENT)
            assert reply.text.endswith("data: [DONE]\n\n")
            spans = await spans_of(kept, 3)
    server, queue, send = by_name(spans, "chat demo"), by_name(spans, "queue"), by_name(spans, "send")
    assert {span.trace_id for span in spans} == {TRACE}
    assert (server.parent_id, server.kind) == (PARENT, SERVER)
    assert queue.parent_id == send.parent_id == server.span_id
    assert send.kind == CLIENT
    upstream = {name.lower(): value for name, value in one.received[0][0].items()}
    assert upstream["traceparent"] == f"00-{TRACE}-{send.span_id}-01"
    assert upstream["tracestate"] == "vendor=1"
    assert server.attributes["gen_ai.request.model"] == "demo"
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["ryzanstein.request.id"] == reply.headers["x-request-id"]
    assert server.begin <= queue.begin <= queue.end <= send.begin <= send.end <= server.end
    assert {span.service for span in spans} == {"ryzanstein-gateway"}
    assert SECRET.encode() not in kept.raw


async def test_what_was_refused_before_a_model_was_known_has_a_span_that_no_client_can_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            assert (await world.client.post("/v1/made/up", json={})).status_code == 404
            refused = await world.client.get("/v1/models", headers={"authorization": "Bearer wrong"} | TRACEPARENT)
            assert refused.status_code == 401
            spans = await spans_of(kept, 2)
    assert [span.name for span in spans] == ["POST", "GET"]
    assert spans[1].attributes["http.response.status_code"] == 401
    assert spans[1].parent_id == PARENT
    assert b"wrong" not in kept.raw


async def test_each_try_has_a_span_and_the_one_that_failed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            first, second = [await world.add_replica() for _ in range(2)]
            await world.route("demo")
            await world.endpoints("demo", [first])
            first.not_started = "draining"
            await world.endpoints("demo", [first, second])
            asked = 0
            while not first.received and asked < 4:  # the first of them may choose the second replica
                assert (await world.ask(**STREAM)).status_code == 200
                asked += 1
            # Three for each request, and the try that failed: they come in batches.
            spans = [span for span in await spans_of(kept, 3 * asked + 1) if span.name == "send"]
    failed = next(span for span in spans if span.attributes["ryzanstein.ending"] == "draining")
    after = next(span for span in spans if failed.span_id in span.links)
    assert (failed.status, failed.attributes["error.type"]) == (ERROR, "draining")
    assert (after.trace_id, after.parent_id) == (failed.trace_id, failed.parent_id)
    assert after.attributes["ryzanstein.ending"] == "answered"


async def test_a_stream_that_goes_on_elsewhere_is_one_trace_with_the_loss_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            replicas = [await world.add_replica() for _ in range(2)]
            once = [End.RESET]  # whichever is asked first is lost
            for one in replicas:
                one.answer = Journaled(ends=once, end_after=10).answer
            await world.route("demo")
            await world.endpoints("demo", replicas)
            body = {"model": "demo", "stream": True, "max_tokens": 12}
            reply = await world.client.post("/v1/chat/completions", json=body, headers=TRACEPARENT)
            assert reply.text.endswith("data: [DONE]\n\n")
            spans = await spans_of(kept, 4)
    server = by_name(spans, "chat demo")
    lost, resumed = [span for span in spans if span.name == "send"]
    assert {span.parent_id for span in (lost, resumed)} == {server.span_id}
    assert (lost.attributes["ryzanstein.ending"], lost.status) == ("crash", ERROR)
    assert resumed.attributes["ryzanstein.ending"] == "answered"
    assert resumed.links == [lost.span_id]
    delivered = [span.attributes["gen_ai.usage.output_tokens"] for span in (lost, resumed)]
    assert 0 < delivered[0] < sum(delivered) == server.attributes["gen_ai.usage.output_tokens"] == 12
    told = {"ryzanstein.endpoint": lost.attributes["ryzanstein.endpoint"], "reason": "crash", "outcome": "resumed"}
    assert ("migration", told) in server.events
    assert (server.attributes["ryzanstein.migrations"], server.status) == (1, 0)


async def test_requests_over_grpc_and_websocket_are_traced_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            one = await world.add_replica()
            await world.route("demo")
            await world.endpoints("demo", [one])
            headers = {"authorization": f"Bearer {KEY}"} | TRACEPARENT
            async with grpc.aio.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
                ask = pb.ChatRequest(model="demo", messages=[pb.Message(role=pb.ROLE_USER, content=SECRET)])
                await InferenceStub(channel).Chat(ask, metadata=tuple(headers.items()), timeout=20)
            url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
            async with connect(url, additional_headers=headers, proxy=None) as socket, asyncio.timeout(20):
                await socket.send(json.dumps({"type": "create", "id": "1", "kind": "chat", "request": STREAM}))
                while json.loads(await socket.recv())["type"] == "event":
                    pass
            spans = await spans_of(kept, 6)
    servers = [span for span in spans if span.name == "chat demo"]
    assert [span.attributes["network.protocol.name"] for span in servers] == ["grpc", "websocket"]
    assert {(span.trace_id, span.parent_id) for span in servers} == {(TRACE, PARENT)}
    assert SECRET.encode() not in kept.raw


@pytest.mark.parametrize("status", [503, 0])
async def test_a_collector_that_is_away_or_in_trouble_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with collector() as kept:
        traced(monkeypatch, kept)
        kept.status = status
        if status == 0:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr("ryzanstein_gateway.tracing.FLUSH_SECONDS", 0.3)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            one = await world.add_replica()
            await world.route("demo")
            await world.endpoints("demo", [one])
            for _ in range(20):
                assert (await world.ask(**STREAM)).status_code == 200
            world.stop.set()
            async with asyncio.timeout(30):  # nor is the end held up
                await world.run
        assert kept.spans == []


async def test_without_an_endpoint_no_span_is_made_and_the_clients_context_goes_on(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    reply = await world.client.post("/v1/chat/completions", json=STREAM, headers=TRACEPARENT)
    assert reply.status_code == 200
    upstream = {name.lower(): value for name, value in one.received[0][0].items()}
    assert upstream["traceparent"] == TRACEPARENT["traceparent"]
    assert UNTRACED.attempt("pod", "host", 1) is UNTRACED.attempt("pod", "host", 2)


def test_a_gateway_that_does_not_trace_never_loads_what_would() -> None:
    code = "import sys, ryzanstein_gateway.server; print(*[m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_standard_variables_turn_traces_on_and_off(environ: dict[str, str], wanted: bool) -> None:
    assert is_enabled(environ) is wanted
    assert read_settings({"RYZANSTEIN_NAMESPACE": "rz"} | environ).traces is wanted


@pytest.mark.ranks
@pytest.mark.timeout(240)
async def test_one_trace_leads_from_the_client_through_the_gateway_into_the_engines_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = await asyncio.to_thread(write_tiny_model, tmp_path)
    with collector() as kept:
        traced(monkeypatch, kept)
        with serve_worker(model_dir, "--max-num-seqs", "4", "--num-kv-blocks", "64") as worker:
            async with gateway_process(tmp_path, replicas=0, RYZANSTEIN_GATEWAY_PROCESSES="2") as gateway:
                await announce(
                    gateway.kube, ["127.0.0.1"], httpx.URL(worker.api).port or 0, httpx.URL(worker.health).port or 0,
                    model=MODEL_NAME,
                )  # fmt: skip
                body = {"model": MODEL_NAME, "prompt": SECRET, "max_tokens": 6, "ignore_eos": True, "stream": True}
                reply = await until_served(gateway, body)
                assert reply.text.endswith("data: [DONE]\n\n")
                await spans_of_workers(kept, 4)
                await until(lambda: any(one.name == f"text_completion {MODEL_NAME}" and one.parent_id == PARENT
                                        for one in kept.spans), 30, "the gateway's has come")  # fmt: skip
                spans = [span for span in kept.spans if span.trace_id == TRACE]
            direct = await call_over_grpc(worker, kept)
    gateways = [span for span in spans if span.service == "ryzanstein-gateway"]
    server, send = by_name(gateways, f"text_completion {MODEL_NAME}"), by_name(gateways, "send")
    workers = [span for span in spans if span.service == "ryzanstein-worker"]
    inner = by_name(workers, f"text_completion {MODEL_NAME}")
    queue, prefill, decode = [by_name(workers, f"engine.{name}") for name in ("queue", "prefill", "decode")]
    assert [server.parent_id, send.parent_id, inner.parent_id] == [PARENT, server.span_id, send.span_id]
    assert {queue.parent_id, prefill.parent_id, decode.parent_id} == {inner.span_id}
    assert (queue.end, prefill.end) == (prefill.begin, decode.begin)
    assert decode.attributes["gen_ai.usage.output_tokens"] == 6
    assert decode.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert len(prefill.events) == 1, "the first token ends the prefill"
    assert len(decode.events) == decode.attributes["ryzanstein.engine.steps"] == 5
    assert {about["ryzanstein.engine.batch_size"] for _, about in prefill.events + decode.events} == {1}
    assert inner.attributes["gen_ai.usage.output_tokens"] == server.attributes["gen_ai.usage.output_tokens"] == 6
    assert inner.attributes["gen_ai.usage.input_tokens"] == prefill.attributes["gen_ai.usage.input_tokens"] > 0
    assert inner.attributes["ryzanstein.request.id"] == reply.headers["x-request-id"]
    call = by_name(direct, f"text_completion {MODEL_NAME}")
    assert (call.parent_id, call.attributes["network.protocol.name"]) == (PARENT, "grpc")
    assert by_name(direct, "engine.decode").parent_id == call.span_id
    assert SECRET.encode() not in kept.raw
    (access,) = [one for one in gateway.records if one.get("trace_id") == TRACE and one["status"] == 200]
    assert access["completion_tokens"] == 6


async def until_served(gateway: GatewayProcess, body: dict[str, Any]) -> httpx.Response:
    """The first answer that is one: until the routes are known a model does not exist."""
    async with asyncio.timeout(60), gateway.client() as client:
        while True:
            reply = await client.post("/v1/completions", json=body, headers=TRACEPARENT)
            if reply.status_code == 200:
                return reply
            await asyncio.sleep(0.1)


async def spans_of_workers(kept: Collector, count: int) -> list[Span]:
    """The workers' spans, once there are so many. The gateway's are not counted: each request before the model was
    known has one too."""

    def found() -> list[Span]:
        return [span for span in kept.spans if span.service == "ryzanstein-worker"]

    await until(lambda: len(found()) >= count, 30, f"{count} spans of workers")
    return found()


async def call_over_grpc(worker: WorkerProcess, kept: Collector) -> list[Span]:
    """The spans of one call to the worker itself."""
    before = await spans_of_workers(kept, 4)
    (serving,) = [record for record in worker.records if record["message"] == "serving"]
    ask = pb.CompletionRequest(model=MODEL_NAME, prompt=SECRET, sampling=pb.Sampling(max_tokens=2))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{serving['grpc_port']}") as channel:
        await InferenceStub(channel).Complete(ask, metadata=tuple(TRACEPARENT.items()), timeout=20)
    return [span for span in await spans_of_workers(kept, 8) if span not in before]
