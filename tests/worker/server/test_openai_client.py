"""The real openai client against a real worker: what applications do."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionAssistantMessageParam, ChatCompletionMessageParam

from ryzanstein_worker.server.tokenizer import Tokenizer
from worker_process import MODEL_NAME, WorkerProcess

CHAT: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "A journey of a thousand"},
]


@pytest.fixture
def client(worker: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{worker.api}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer(model_dir)


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL_NAME]
    assert client.models.retrieve(MODEL_NAME).id == MODEL_NAME
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.models.retrieve("other")


def test_a_completion_is_greedy_text_of_the_length_asked_for(client: OpenAI, tokenizer: Tokenizer) -> None:
    prompt = "Kubernetes keeps the pods"
    answers = [
        client.completions.create(model=MODEL_NAME, prompt=prompt, max_tokens=12, temperature=0) for _ in range(2)
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text != ""
    assert answers[0].choices[0].finish_reason == "length"
    usage = answers[0].usage
    assert usage is not None
    assert usage.prompt_tokens == len(tokenizer.encode(prompt, add_special_tokens=True))
    assert (usage.completion_tokens, usage.total_tokens) == (12, usage.prompt_tokens + 12)


def test_the_prefix_cache_shows_in_the_usage(client: OpenAI) -> None:
    prompt = list(range(10, 60))
    usages = [client.completions.create(model=MODEL_NAME, prompt=prompt, max_tokens=1).usage for _ in range(2)]
    cached = [usage.prompt_tokens_details.cached_tokens for usage in usages if usage and usage.prompt_tokens_details]
    assert cached == [0, 48]


def test_tenants_share_no_prefix(client: OpenAI) -> None:
    prompt = list(range(60, 110))
    cached = []
    for salt in ("aa", "bb", "aa"):
        answer = client.completions.create(
            model=MODEL_NAME, prompt=prompt, max_tokens=1, extra_headers={"x-ryzanstein-cache-salt": salt}
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 0, 48]


def test_a_streamed_completion_is_the_same_text_in_pieces(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL_NAME, prompt="The quick", max_tokens=16, temperature=0)
    chunks = list(
        client.completions.create(model=MODEL_NAME, prompt="The quick", max_tokens=16, temperature=0, stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    finishes: list[str | None] = [chunk.choices[0].finish_reason for chunk in chunks]
    assert finishes == [*([None] * (len(chunks) - 1)), "length"]
    assert all(chunk.usage is None for chunk in chunks)


def test_the_usage_comes_last_and_only_when_asked_for(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL_NAME, messages=CHAT, max_tokens=5, stream=True, stream_options={"include_usage": True}, n=2
        )
    )
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens <= 10


def test_a_chat_answer_and_its_stream_agree(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL_NAME, messages=CHAT, max_tokens=12, temperature=0)
    chunks = list(
        client.chat.completions.create(model=MODEL_NAME, messages=CHAT, max_tokens=12, temperature=0, stream=True)
    )
    assert whole.choices[0].message.role == "assistant"
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, whole.choices[0].finish_reason]
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_assistants_answer_can_be_sent_back(client: OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL_NAME, messages=CHAT, max_completion_tokens=4)
    again: ChatCompletionAssistantMessageParam = first.choices[0].message  # type: ignore[assignment]  # clients do so
    messages: list[ChatCompletionMessageParam] = [
        *CHAT,
        again,
        {"role": "user", "content": [{"type": "text", "text": "and then?"}]},
    ]
    second = client.chat.completions.create(model=MODEL_NAME, messages=messages, max_completion_tokens=4)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_equal_seeds_give_equal_samples_and_other_seeds_others(client: OpenAI) -> None:
    def sample(seed: int) -> str:
        return (
            client.completions.create(
                model=MODEL_NAME, prompt="A", max_tokens=24, temperature=1.0, top_p=0.95, seed=seed
            )
            .choices[0]
            .text
        )

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in (7, 8, -9)}) == 3


def test_n_choices_differ_and_come_in_order(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL_NAME, prompt="A", max_tokens=16, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 48
    texts = ["", "", ""]
    for chunk in client.completions.create(model=MODEL_NAME, prompt="A", max_tokens=16, n=3, seed=1, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


def test_several_prompts_and_token_ids(client: OpenAI, tokenizer: Tokenizer) -> None:
    texts = ["The quick brown", "A journey of"]
    by_text = client.completions.create(model=MODEL_NAME, prompt=texts, max_tokens=8, temperature=0)
    ids = [tokenizer.encode(text, add_special_tokens=True) for text in texts]
    by_ids = client.completions.create(model=MODEL_NAME, prompt=ids, max_tokens=8, temperature=0)
    one = client.completions.create(model=MODEL_NAME, prompt=ids[1], max_tokens=8, temperature=0)
    assert [choice.text for choice in by_text.choices] == [choice.text for choice in by_ids.choices]
    assert one.choices[0].text == by_ids.choices[1].text


def test_a_stop_string_ends_the_text_before_it(client: OpenAI) -> None:
    full = client.completions.create(model=MODEL_NAME, prompt="one step", max_tokens=24, temperature=0).choices[0].text
    stop = full[5:8]
    expected = full[: full.index(stop)]
    stopped = client.completions.create(
        model=MODEL_NAME, prompt="one step", max_tokens=24, temperature=0, stop=["never in there", stop]
    )
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (expected, "stop")
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens < 24
    chunks = client.completions.create(
        model=MODEL_NAME, prompt="one step", max_tokens=24, temperature=0, stop=stop, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected


def test_completion_logprobs(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL_NAME, prompt="A", max_tokens=6, temperature=0, logprobs=3)
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.token_logprobs is not None
    assert scores.top_logprobs is not None
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == 6
    for token, logprob, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert len(top) == 3
        assert math.isclose(max(top.values()), logprob)  # greedy chose the likeliest
        assert token in top
    assert scores.text_offset is not None
    assert scores.text_offset[0] == 0


def test_chat_logprobs_stream_as_they_stand_in_the_whole(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL_NAME, messages=CHAT, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    )
    scores = whole.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert len(scores.content) == 6
    assert all(len(token.top_logprobs) == 2 for token in scores.content)
    chunks = client.chat.completions.create(
        model=MODEL_NAME, messages=CHAT, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2, stream=True
    )
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [token.token for part in parts if part is not None for token in part.content or []]
    assert streamed == [token.token for token in scores.content]
    assert (
        b"".join(bytes(token.bytes or []) for token in scores.content)
        .decode(errors="replace")
        .startswith((whole.choices[0].message.content or "").rstrip("\ufffd"))
    )


def test_ignore_eos_and_min_tokens_are_obeyed(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL_NAME, prompt="x", max_tokens=64, extra_body={"ignore_eos": True, "top_k": 40, "min_p": 0.01}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 64


async def test_many_at_once_give_what_each_gives_alone(worker: WorkerProcess) -> None:
    async with AsyncOpenAI(base_url=f"{worker.api}/v1", api_key="none", max_retries=0, timeout=30) as client:

        async def one(number: int) -> str:
            answer = await client.completions.create(
                model=MODEL_NAME, prompt=f"Number {number}", max_tokens=10, temperature=0
            )
            return answer.choices[0].text

        async def streamed(number: int) -> str:
            text = ""
            stream = await client.completions.create(
                model=MODEL_NAME, prompt=f"Number {number}", max_tokens=10, temperature=0, stream=True
            )
            async for chunk in stream:
                text += chunk.choices[0].text
            return text

        alone = [await one(number) for number in range(4)]
        together = await asyncio.gather(*map(one, range(4)), *map(streamed, range(4)))
        assert together == alone + alone


def test_request_ids_come_back(worker: WorkerProcess) -> None:
    body = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 1}
    given = httpx.post(f"{worker.api}/v1/completions", json=body, headers={"x-request-id": "abc-1"}, timeout=30)
    assert given.headers["x-request-id"] == "abc-1"
    made = [
        httpx.post(f"{worker.api}/v1/completions", json=body, headers={"x-request-id": bad}, timeout=30).headers[
            "x-request-id"
        ]
        for bad in ("has space", "x" * 200)
    ]
    assert len(set(made)) == 2
    assert all(len(one) == 32 for one in made)


def test_the_document_describes_requests_and_answers(worker: WorkerProcess) -> None:
    document = httpx.get(f"{worker.api}/openapi.json", timeout=30).json()
    schemas = document["components"]["schemas"]
    assert {"CompletionRequest", "ChatCompletionRequest", "ChatCompletionChunk", "ErrorResponse"} <= set(schemas)
    refs = _refs(document)
    assert refs
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in refs)


def _refs(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_refs, node.values()))
    return set().union(*map(_refs, node)) if isinstance(node, list) else set()
