"""A stream that goes on at another real worker says what the one that was never disturbed said."""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import KEY
from local_cluster import MODEL, LocalCluster, local_cluster

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(480)]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {
    "model": MODEL,
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 160,
    "ignore_eos": True,
}
ASKS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        CHAT,
        {"messages": [{"role": "user", "content": "Return the name of"}], "seed": 11, "temperature": 0.9, "n": 2}
        | {"frequency_penalty": 0.7, "presence_penalty": 0.3, "logprobs": True, "top_logprobs": 2},
    ),
    (COMPLETIONS, {"prompt": ["The list of", "A value"], "temperature": 0, "logprobs": 3, "stop": ["\n\n\n\n\n"]}),
    (COMPLETIONS, {"prompt": "The type of the", "seed": 5, "temperature": 1.2, "top_p": 0.9, "min_tokens": 60}),
)


@dataclass
class Answer:
    """What a client makes of a stream. Two runs may differ in the answer's id, the second it was made in, the order of
    two choices' events, the cached tokens, and in the last digits of a log probability."""

    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    scored: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    finished: dict[int, str] = field(default_factory=dict)
    openings: int = 0
    ids: set[str] = field(default_factory=set)
    usage: dict[str, int] = field(default_factory=dict)


def read_answer(stream: bytes) -> Answer:
    """From all events; the stream must be whole."""
    answer = Answer()
    assert stream.endswith(b"data: [DONE]\n\n"), stream[-300:]
    for event in stream.removesuffix(b"data: [DONE]\n\n").strip().split(b"\n\n"):
        chunk = json.loads(event.removeprefix(b"data: "))
        answer.ids.add(chunk["id"])
        if chunk.get("usage"):
            answer.usage = {name: chunk["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        for choice in chunk["choices"]:
            _add(answer, choice)
    assert len(answer.ids) == 1, "the answer changed its name"
    answer.ids.clear()
    return answer


def _add(answer: Answer, choice: dict[str, Any]) -> None:
    index, delta, scores = choice["index"], choice.get("delta"), choice.get("logprobs") or {}
    answer.openings += bool(delta and "role" in delta)
    answer.texts[index] += (delta.get("content") or "") if delta is not None else choice["text"]
    answer.scored[index] += [item["token"] for item in scores.get("content") or []] or scores.get("tokens") or []
    if choice["finish_reason"]:
        assert index not in answer.finished, "a choice ended twice"
        answer.finished[index] = choice["finish_reason"]


async def streams(cluster: LocalCluster, kills: bool) -> list[bytes]:
    """All of ASKS at once; the first worker is killed once each of them has begun."""
    began = [asyncio.Event() for _ in ASKS]

    async def read(client: httpx.AsyncClient, path: str, more: dict[str, Any], event: asyncio.Event) -> bytes:
        got = b""
        async with client.stream("POST", path, json=BODY | more) as reply:
            assert reply.status_code == 200, await reply.aread()
            async for piece in reply.aiter_raw():
                got += piece
                if got.count(b"\n\n") > 12:
                    event.set()
        return got

    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=cluster.door.url, headers=headers, timeout=180) as client:
        asked = [
            asyncio.create_task(read(client, path, more, event))
            for (path, more), event in zip(ASKS, began, strict=True)
        ]
        async with asyncio.timeout(180):
            for event in began:
                await event.wait()
            if kills:
                assert not any(task.done() for task in asked), "too late: a stream has ended"
                cluster.workers[0].process.kill()
            return list(await asyncio.gather(*asked))


async def test_a_killed_workers_streams_go_on_whatever_their_options(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, workers=1, RYZANSTEIN_GATEWAY_PROCESSES="1") as cluster:
        want = await streams(cluster, kills=False)
        second = cluster.start_worker()
        await second.until_ready()
        # Both are known, and all streams begin at the first: the second is told of once they have.
        asked = asyncio.create_task(streams(cluster, kills=True))
        while await _running(cluster) < len(ASKS):
            assert not asked.done(), "too late: they have ended"
            await asyncio.sleep(0.02)
        await cluster.announce(cluster.workers)
        got = await asked
        for told, right in zip(map(read_answer, got), map(read_answer, want), strict=True):
            assert told == right
        lines = await cluster.gateway.metrics()
        moved = f'ryzanstein_gateway_migrations_total{{model="{MODEL}",outcome="resumed",reason="crash"}}'
        assert lines[moved] == len(ASKS)


async def _running(cluster: LocalCluster) -> float:
    lines = await cluster.gateway.metrics()
    return lines.get(f'ryzanstein_gateway_requests_in_flight{{model="{MODEL}"}}', 0.0)
