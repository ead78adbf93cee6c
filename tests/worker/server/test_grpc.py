"""The worker's gRPC: what it answers and refuses is what its REST API does, and whoever leaves is noticed as soon."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1 import openai
from ryzanstein.v1.inference_pb2_grpc import InferenceStub
from ryzanstein.v1.methods import SERVICE
from ryzanstein.v1.status import ERROR_METADATA
from ryzanstein_worker.contract import HEADER_CACHE_SALT, HEADER_NOT_STARTED
from ryzanstein_worker.server.openai import ChatCompletionRequest, CompletionRequest, Message
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SEEDED = pb.Sampling(max_tokens=12, seed=7, temperature=0.9, stop=["zzz"], frequency_penalty=0.5, n=2)
COMPLETION = pb.CompletionRequest(model=MODEL_NAME, prompt="The quick", sampling=SEEDED, logprobs=3)
TURN = pb.Message(role=pb.ROLE_USER, content="grüße, 你好, 🙂!")
CHAT = pb.ChatRequest(model=MODEL_NAME, messages=[TURN], sampling=SEEDED, logprobs=True, top_logprobs=2)
LONG = pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=pb.Sampling(max_tokens=500, ignore_eos=True))


@pytest.fixture
def stub(worker: WorkerProcess) -> Iterator[InferenceStub]:
    with grpc.insecure_channel(worker.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield InferenceStub(channel)


def _bare(answer: Any) -> tuple[Any, list[Any]]:
    """An answer as an object, without what differs from one to the next, and its scores to compare nearly: requests
    that are batched otherwise are added up otherwise."""
    found = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    for name in ("id", "created"):
        found.pop(name)
    found.get("usage", {}).pop("prompt_tokens_details", None)
    scores: list[float] = []
    bare = json.loads(json.dumps(found), parse_float=lambda digits: scores.append(float(digits)))
    return bare, [pytest.approx(score, abs=1e-3) for score in scores]


def _rest(worker: WorkerProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(worker.api + path, json=body, timeout=30)


def test_whole_answers_are_rests_own(worker: WorkerProcess, stub: InferenceStub) -> None:
    twin = _rest(worker, "/v1/completions", openai.completion_object(COMPLETION, stream=False)).json()
    answer = stub.Complete(COMPLETION, timeout=30)
    assert answer.id.startswith("cmpl-")
    assert _bare(openai.completion_response(twin)) == _bare(answer)
    assert answer.usage.completion_tokens > 0
    assert len(answer.choices) == 2
    assert answer.choices[1].logprobs.tokens[0].top_logprobs
    twin = _rest(worker, "/v1/chat/completions", openai.chat_object(CHAT, stream=False)).json()
    chat = stub.Chat(CHAT, timeout=30)
    assert _bare(openai.chat_response(twin)) == _bare(chat)
    first = chat.choices[0]
    assert (first.message.role, first.finish_reason) == (pb.ROLE_ASSISTANT, pb.FINISH_REASON_LENGTH)
    spelt = b"".join(token.bytes for token in first.logprobs.content)
    assert spelt.decode(errors="replace").startswith(first.message.content[:4])


def test_streams_add_up_to_the_whole_and_end_with_the_usage_that_was_asked_for(stub: InferenceStub) -> None:
    whole = stub.Complete(COMPLETION, timeout=30)
    asked = pb.CompletionRequest()
    asked.CopyFrom(COMPLETION)
    asked.sampling.include_usage = True
    chunks = list(stub.StreamComplete(asked, timeout=30))
    texts = ["".join(c.text for chunk in chunks for c in chunk.choices if c.index == index) for index in range(2)]
    assert texts == [choice.text for choice in whole.choices]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert not any(chunk.HasField("usage") for chunk in chunks[:-1])
    chat = stub.Chat(CHAT, timeout=30)
    pieces = list(stub.StreamChat(CHAT, timeout=30))
    assert [piece.choices[0].delta.role for piece in pieces[:2]] == [pb.ROLE_ASSISTANT] * 2
    for choice in chat.choices:
        own = [c for piece in pieces for c in piece.choices if c.index == choice.index]
        assert "".join(c.delta.content for c in own) == choice.message.content
        tokens = [token.token for c in own for token in c.logprobs.content]
        assert tokens == [token.token for token in choice.logprobs.content]
        assert own[-1].finish_reason == choice.finish_reason


def test_every_way_to_give_a_prompt_is_taken(stub: InferenceStub) -> None:
    def ask(**prompt: Any) -> int:
        sampling = pb.Sampling(max_tokens=1)
        return len(stub.Complete(pb.CompletionRequest(model=MODEL_NAME, sampling=sampling, **prompt)).choices)

    assert ask(prompt="a") == 1
    assert ask(prompts=pb.Texts(texts=["a", "b"])) == 2
    assert ask(prompt_token_ids=pb.TokenIds(ids=[5, 6])) == 1
    assert ask(prompts_token_ids=pb.TokenIdLists(lists=[pb.TokenIds(ids=[5]), pb.TokenIds(ids=[6])])) == 2
    parts = pb.Message(role=pb.ROLE_USER, parts=pb.Texts(texts=["a", "b"]))
    assert stub.Chat(pb.ChatRequest(model=MODEL_NAME, messages=[parts], sampling=pb.Sampling(max_tokens=1))).choices


def test_the_model_is_listed(worker: WorkerProcess, stub: InferenceStub) -> None:
    twin = httpx.get(worker.api + "/v1/models", timeout=30).json()
    assert stub.ListModels(pb.ListModelsRequest()) == openai.models_response(twin)


REFUSED: dict[str, pb.CompletionRequest] = {
    "another model": pb.CompletionRequest(model="other", prompt="x"),
    "no prompt": pb.CompletionRequest(model=MODEL_NAME),
    "empty prompts": pb.CompletionRequest(model=MODEL_NAME, prompts=pb.Texts()),
    "too many tokens": pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=pb.Sampling(max_tokens=2**31)),
    "too hot": pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=pb.Sampling(temperature=2.5)),
    "an empty stop": pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=pb.Sampling(stop=[""])),
    "too long": pb.CompletionRequest(model=MODEL_NAME, prompt_token_ids=pb.TokenIds(ids=[7] * 513)),
    "a foreign token": pb.CompletionRequest(model=MODEL_NAME, prompt_token_ids=pb.TokenIds(ids=[2**40])),
    "usage of no stream": pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=pb.Sampling(include_usage=True)),
    "another format": pb.CompletionRequest(
        model=MODEL_NAME, prompt="x", sampling=pb.Sampling(response_format=pb.ResponseFormat(type="json_object"))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_rests_own(worker: WorkerProcess, stub: InferenceStub, name: str) -> None:
    twin = _rest(worker, "/v1/completions", openai.completion_object(REFUSED[name], stream=False))
    with pytest.raises(grpc.RpcError) as failed:
        stub.Complete(REFUSED[name], timeout=30)
    code = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND}[twin.status_code]
    assert failed.value.code() is code
    error = pb.Error.FromString(dict(failed.value.trailing_metadata())[ERROR_METADATA])
    assert error == openai.error_message(twin.json()["error"])
    assert failed.value.details() == error.message


def test_a_number_that_no_role_has_and_one_that_json_lacks_are_refused(stub: InferenceStub) -> None:
    odd = pb.Message(content="x")
    odd.role = 77  # type: ignore[assignment]
    for request, param in (
        (pb.ChatRequest(model=MODEL_NAME, messages=[odd]), "messages.0.role"),
        (pb.ChatRequest(model=MODEL_NAME, messages=[pb.Message(content="x")]), "messages.0.role"),
        (pb.ChatRequest(model=MODEL_NAME, messages=[TURN], sampling=pb.Sampling(top_p=float("nan"))), "top_p"),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            stub.Chat(request, timeout=30)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert pb.Error.FromString(dict(failed.value.trailing_metadata())[ERROR_METADATA]).param == param


def test_a_salt_that_is_none_is_refused(stub: InferenceStub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stub.Complete(COMPLETION, metadata=((HEADER_CACHE_SALT, "zz"),), timeout=30)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _running(worker: WorkerProcess) -> float:
    async with httpx.AsyncClient(timeout=30) as client:
        text = (await client.get(f"{worker.health}/metrics")).text
    return sum(float(value) for value in re.findall(r"^ryzanstein_num_requests_running{[^}]*} (\S+)$", text, re.M))


async def _until_running(worker: WorkerProcess, count: float, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (now := await _running(worker)) != count:
        assert time.monotonic() < deadline, f"{now} are running"
        await asyncio.sleep(0.02)


async def test_a_caller_that_cancels_or_is_out_of_time_gives_back_all_it_held(slow_worker: WorkerProcess) -> None:
    # Within a second on an idle machine; served to its end, each of these takes more than ten.
    worker = slow_worker
    await _until_running(worker, 0, 30)
    async with grpc.aio.insecure_channel(worker.grpc) as channel:
        stub = InferenceStub(channel)
        stream = stub.StreamComplete(LONG)
        assert await stream.read()
        whole = stub.Complete(LONG)
        await _until_running(worker, 2, 30)
        stream.cancel()
        whole.cancel()
        await _until_running(worker, 0, 6)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.Complete(LONG, timeout=0.05)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await _until_running(worker, 0, 6)


def _first_refusal(stub: InferenceStub) -> Any:
    """The first end of a request that is not for want of time: what is accepted waits behind the others."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with pytest.raises(grpc.RpcError) as failed:
            stub.Complete(LONG, timeout=0.5)
        if failed.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return failed.value
    raise AssertionError("the worker never closed its door")


def test_a_draining_worker_says_so_ends_what_runs_and_refuses_the_rest_as_not_started(model_dir: Path) -> None:
    # One after another, so that some still wait after the grace: a quarter of the drain, in which it still accepts.
    flags = ("--drain-seconds", "12", "--max-num-seqs", "1")
    with serve_worker(model_dir, *flags) as worker, grpc.insecure_channel(worker.grpc) as channel:
        stub, health = InferenceStub(channel), health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        assert health.Check(asked, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        sampling = pb.Sampling(max_tokens=100, ignore_eos=True)
        request = pb.CompletionRequest(model=MODEL_NAME, prompt="x", sampling=sampling)
        first = stub.StreamComplete(request)
        next(first)
        streams = [stub.StreamComplete(LONG) for _ in range(60)]  # half a minute's work
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for_log("draining", 30)
        assert health.Check(asked, timeout=30).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = _first_refusal(stub)
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(refused.trailing_metadata())[HEADER_NOT_STARTED] == "draining"
        assert list(first)[-1].choices[0].finish_reason == pb.FINISH_REASON_LENGTH
        for stream in streams:
            stream.cancel()
        assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("message", "model", "elsewhere"),
    [
        (pb.CompletionRequest, CompletionRequest, {"stream", "stream_options", "prompt"}),
        (pb.ChatRequest, ChatCompletionRequest, {"stream", "stream_options"}),
        (pb.Message, Message, {"refusal"}),
    ],
)
def test_the_proto_has_every_field_of_the_rest_api(message: Any, model: Any, elsewhere: set[str]) -> None:
    names = {field.name for field in message.DESCRIPTOR.fields}
    if "sampling" in names:
        names |= {field.name for field in pb.Sampling.DESCRIPTOR.fields}
    assert set(model.model_fields) - elsewhere <= names
