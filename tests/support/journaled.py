"""An answerer for a Replica that streams with the journal, token by token, and can be lost in every way.

Its tokens depend on the seed, the choice and the position alone, so any two of these answer alike, and one can go on
where another has ended. It checks what it is asked to resume from against what it would have said itself.
"""

import asyncio
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import web

from ryzanstein_worker.contract import (
    CHAT_COMPLETIONS,
    CONTENT_TYPE_RESUME,
    HEADER_JOURNAL,
    HEADER_LOST,
    MARK_COMMIT,
    MARK_LOST_CRASH,
    MARK_LOST_DRAIN,
)

PROMPT_TOKENS = 7
SEED = 4711
ANSWER_ID = "chatcmpl-0123456789abcdef0123456789abcdef"


class End(Enum):
    """How a stream is lost."""

    RESET = "reset"
    """The connection is reset, as by a killed process on a living node."""
    CLOSE = "close"
    """It is closed in the middle of the body."""
    MID_EVENT = "mid_event"
    """It is closed in the middle of an event, with an event before it whose marker has not come."""
    SILENCE = "silence"
    """Nothing more comes, and the connection stays."""
    LOST_CRASH = "lost_crash"
    LOST_DRAIN = "lost_drain"
    NO_DONE = "no_done"
    """The body ends as if it were whole."""


@dataclass
class Journaled:
    """`answer` is what a Replica is given. `end_after`: so many tokens of this stream, all choices together; each of
    the ways in `ends` is used for one request, in order, then all goes well."""

    num_cached: int = 0
    end_after: int = 5
    ends: list[End] = field(default_factory=list)
    before_head: bool = False
    """Lose it before the reply's head."""
    pace: float = 0.0
    """Seconds before each token."""
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: what is to be lost waits for it."""
    answer_id: str = ANSWER_ID
    """As its journal says; that of another answer, if it has mixed up two."""
    refuses: int = 0
    """Not 0: answer a resume with this status."""
    plain: bool = False
    """A server that knows of no journal."""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """The states that were resumed here."""
    complaints: list[str] = field(default_factory=list)
    """What was wrong with them."""

    def __post_init__(self) -> None:
        self.may_end.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and lose it if it is its turn."""
        body = json.loads(await request.read())
        state: dict[str, Any] | None = None
        if request.content_type == CONTENT_TYPE_RESUME:
            body, state = body["request"], body["resume"]
            self.resumed.append(state)
            if self.refuses:
                return web.json_response({"error": {}}, status=self.refuses)
        end = self.ends.pop(0) if self.ends else None
        if end is not None and (self.before_head or not body.get("stream")):
            return await self._lose_unanswered(request, end)
        run = Run(body, chat=request.path == CHAT_COMPLETIONS, num_cached=self.num_cached, state=state)
        self.complaints += run.complaints
        if not body.get("stream"):
            return web.json_response(run.whole())
        return await self._stream(request, run, end)

    async def _stream(self, request: web.Request, run: "Run", end: End | None) -> web.StreamResponse:
        journal = request.headers.get(HEADER_JOURNAL) == "1" and not self.plain
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        if journal:
            headers[HEADER_JOURNAL] = f"{self.answer_id} 1700000000 {run.seed}"
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for sent, (events, marker) in enumerate(run.deltas()):
            if end is not None and sent >= self.end_after:
                return await self._lose(request, response, end, events)
            if self.pace:
                await asyncio.sleep(self.pace)
            await response.write(events + marker if journal else events)
        await response.write(run.last() + b"data: [DONE]\n\n")
        return response

    async def _lose(
        self, request: web.Request, response: web.StreamResponse, end: End, events: bytes
    ) -> web.StreamResponse:
        await self.may_end.wait()
        match end:
            case End.RESET:
                _reset(request)
            case End.CLOSE:
                _close(request)
            case End.MID_EVENT:
                await response.write(events + b'data: {"half')
                _close(request)
            case End.SILENCE:
                await asyncio.Event().wait()
            case End.LOST_CRASH:
                await response.write(events + MARK_LOST_CRASH + b"\n\n")
            case End.LOST_DRAIN:
                await response.write(MARK_LOST_DRAIN + b"\n\n")
        return response

    async def _lose_unanswered(self, request: web.Request, end: End) -> web.StreamResponse:
        await self.may_end.wait()
        match end:
            case End.SILENCE:
                await asyncio.Event().wait()
            case End.LOST_CRASH | End.LOST_DRAIN:
                return web.json_response(
                    {"error": {}}, status=503, headers={HEADER_LOST: end.value.removeprefix("lost_")}
                )
            case End.RESET:
                _reset(request)
        _close(request)
        return web.Response()


def num_prompts(body: dict[str, Any]) -> int:
    """How many prompts a body of completions has; chat has one."""
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1


class Run:
    """One answer: `n` choices of each prompt with `max_tokens` each, in turns, as a batch gives them."""

    def __init__(
        self, body: dict[str, Any], *, chat: bool, num_cached: int = 0, state: dict[str, Any] | None = None
    ) -> None:
        self.body = body
        self.chat = chat
        self.num_choices = (body.get("n") or 1) * num_prompts(body)
        self.length = body.get("max_tokens") or 12
        self.seed = state["seed"] if state else body.get("seed", SEED)
        self.num_cached = num_cached
        self.done = [0] * self.num_choices
        self.cached = [0] * self.num_choices
        self.complaints: list[str] = []
        if state is not None:
            self._resume(state)

    def _resume(self, state: dict[str, Any]) -> None:
        if len(state["choices"]) != self.num_choices:
            self.complaints.append(f"{len(state['choices'])} choices for {self.num_choices}")
            return
        for index, choice in enumerate(state["choices"]):
            told = choice["token_ids"]
            if told != [self.token(index, position) for position in range(len(told))]:
                self.complaints.append(f"choice {index} cannot have had {told}")
            self.done[index] = len(told)
            self.cached[index] = choice["num_cached"]

    def token(self, choice: int, position: int) -> int:
        """The token at a place: a pure function, as a sampler keyed by seed and position is."""
        return int.from_bytes(sha256(f"{self.seed} {choice} {position}".encode()).digest()[:2])

    def deltas(self) -> Iterator[tuple[bytes, bytes]]:
        """The events of each delta, with its marker. Every third token's text comes with the next one's."""
        opening = b""
        if self.chat and not any(self.done):
            opening = b"".join(
                self.event(index, {"role": "assistant", "content": ""}) for index in range(self.num_choices)
            )
        for position in range(min(self.done), self.length):
            for index in range(self.num_choices):
                if position < self.done[index]:
                    continue
                cached = self.cached[index] or self.num_cached
                marker = b"%b%d %d %d\n\n" % (MARK_COMMIT, index, cached, self.token(index, position))
                yield opening + self._text_event(index, position), marker
                self.cached[index] = cached
                opening = b""

    def _text_event(self, index: int, position: int) -> bytes:
        last = position == self.length - 1
        if position % 3 == 2 and not last:
            return b""
        held = f"{self.token(index, position - 1)} " if position % 3 == 0 and position else ""
        text = f"{held}{self.token(index, position)} "
        return self.event(index, {"content": text}, "length" if last else None)

    def stream(self) -> bytes:
        """The whole stream as a client sees it."""
        return b"".join([events for events, _ in self.deltas()]) + self.last() + b"data: [DONE]\n\n"

    def event(self, index: int, delta: dict[str, str], finish: str | None = None) -> bytes:
        """One chunk as an event."""
        content = {"delta": delta} if self.chat else {"text": delta["content"]}
        choice = {"index": index, **content, "finish_reason": finish}
        chunk = {"id": ANSWER_ID, "created": 1700000000, "model": self.body["model"], "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def last(self) -> bytes:
        """The usage, where it is asked for."""
        if not (self.body.get("stream_options") or {}).get("include_usage"):
            return b""
        return b"data: " + json.dumps({"id": ANSWER_ID, "choices": [], "usage": self.usage()}).encode() + b"\n\n"

    def usage(self) -> dict[str, int]:
        """As of the whole answer."""
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": self.length * self.num_choices,
            "cached_tokens": sum(self.cached),
        }

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        for _ in self.deltas():
            pass
        texts = [[self.token(index, position) for position in range(self.length)] for index in range(self.num_choices)]
        return {"id": ANSWER_ID, "choices": texts, "usage": self.usage()}


def _close(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.close()


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    socket = request.transport.get_extra_info("socket")
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
