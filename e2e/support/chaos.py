"""Many streaming clients that know what the right answer is, and what they saw while something broke.

One thread with one event loop, whatever the number of clients: on two cores they must not be the load.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from stories import Gateway

CLIENTS = 32
TOKENS = 24
_WORDS = ("name", "list", "value", "size", "type", "path", "text", "time")
_TIMEOUT = aiohttp.ClientTimeout(total=120)

REPORT: list[str] = []
"""What each story of faults saw, for the end of the test run's output; e2e/conftest.py prints it."""


class StreamError(Exception):
    """A stream that did not end as it should; its words."""


@dataclass(frozen=True)
class Ask:
    """One request, always the same: greedy, or sampled with a seed, which is as repeatable."""

    prompt: str
    seed: int | None

    def body(self, model: str) -> dict[str, Any]:
        sampling = {"temperature": 0} if self.seed is None else {"temperature": 0.8, "seed": self.seed}
        usage = {"stream_options": {"include_usage": True}, "ignore_eos": True}
        return {"model": model, "prompt": self.prompt, "max_tokens": TOKENS, "stream": True, **sampling, **usage}


ASKS = tuple(Ask(f"Return the {word} of", seed) for seed in (None, None, None, 7) for word in _WORDS)
"""One a client; three of four greedy."""


@dataclass(frozen=True)
class Told:
    """What a client was told: the text, and the tokens it would be billed for."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Seen:
    """What all clients saw, up to now."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    """time.monotonic() of each failure."""
    different: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    """Between two events of one stream, or its request and the first of them, in seconds."""

    def report(self, title: str, *more: str) -> None:
        """Have what was seen printed, now (a failed test shows it) and at the end of the run."""
        REPORT.append("; ".join([f"{title}: {self._summary()}", *more]))
        print(REPORT[-1])

    def _summary(self) -> str:
        kinds = Counter(failure[:100] for failure in self.failures)
        told = f"{self.requests} requests, {len(self.failures)} failed, {len(self.different)} different"
        return f"{told}, longest gap {self.longest_gap:.1f} s{f'; {dict(kinds)}' if kinds else ''}"


async def stream(session: aiohttp.ClientSession, gateway: Gateway, model: str, ask: Ask, seen: Seen) -> Told:
    """One stream to its proper end. Raises StreamError, aiohttp.ClientError, TimeoutError."""
    text, finished = "", False
    usage: dict[str, int] = {}
    async for data in _events(session, gateway, ask.body(model), seen):
        if data == "[DONE]":
            if not finished or not usage:
                raise StreamError(f"[DONE] without a finish reason or usage, after {text!r}")
            return Told(text, usage["prompt_tokens"], usage["completion_tokens"])
        chunk = json.loads(data)
        if "error" in chunk:
            raise StreamError(f"error event: {data}")
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            text += choice["text"]
            finished = finished or choice["finish_reason"] is not None
    raise StreamError(f"ended in silence after {text!r}")


async def _events(
    session: aiohttp.ClientSession, gateway: Gateway, body: dict[str, Any], seen: Seen
) -> AsyncIterator[str]:
    url, last = f"{gateway.url}/v1/completions", time.monotonic()
    async with session.post(url, json=body, headers=gateway.headers()) as answer:
        if answer.status != 200:
            raise StreamError(f"{answer.status}: {await answer.text()}")
        async for line in answer.content:
            if line.startswith(b"data: "):
                now = time.monotonic()
                seen.longest_gap = max(seen.longest_gap, now - last)
                last = now
                yield line[6:].decode().strip()


def expected(gateway: Gateway, model: str) -> dict[Ask, Told]:
    """Every answer, from an undisturbed run."""

    async def ask_all() -> dict[Ask, Told]:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            return {ask: await stream(session, gateway, model, ask, Seen()) for ask in dict.fromkeys(ASKS)}

    return asyncio.run(ask_all())


@contextmanager
def clients(gateway: Gateway, model: str, answers: dict[Ask, Told]) -> Iterator[Seen]:
    """CLIENTS clients, each streaming one request after another until the block ends; then all are waited for."""
    seen, stop = Seen(), threading.Event()

    async def keep_asking(session: aiohttp.ClientSession, ask: Ask) -> None:
        while not stop.is_set():
            try:
                told = await stream(session, gateway, model, ask, seen)
            except (StreamError, aiohttp.ClientError, TimeoutError) as error:
                seen.failures.append(f"{type(error).__name__}: {error}")
                seen.failed_at.append(time.monotonic())
                await asyncio.sleep(0.2)  # a failing gateway must not be flooded; the failure is counted already
            else:
                if told != answers[ask]:
                    seen.different.append(f"{ask}: {told} in place of {answers[ask]}")
            seen.requests += 1

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:
            await asyncio.gather(*(keep_asking(session, ASKS[i % len(ASKS)]) for i in range(CLIENTS)))

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="clients")
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(180)
        assert not thread.is_alive(), "a client is still waiting for its stream"
