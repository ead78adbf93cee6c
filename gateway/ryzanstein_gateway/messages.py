"""Replies for protocols of messages: takes HTTP's and SSE's framing off and hands on what lies within.

Knows the shape of OpenAI's streams and errors; knows neither WebSockets nor gRPC.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ryzanstein_gateway.errors import STREAM_CUT, UPSTREAM_FAILED, Refusal
from ryzanstein_gateway.exchange import Exchange, Header

_EVENT_STREAM: Final = b"text/event-stream"
_DONE: Final = b"[DONE]"
_ERROR: Final = b"error"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a reply is not what was asked for. `status` 0: said in the middle of a stream, where there is none.

    `error` is the inside of OpenAI's error object.
    """

    status: int
    error: dict[str, Any]
    retry_after: bytes = b""


def failure_of(refusal: Refusal, *, started: bool = False) -> Failure:
    """The gateway's own refusal."""
    error = {"message": refusal.message, "type": refusal.type, "param": None, "code": refusal.code}
    retry_after = dict(refusal.headers).get(b"retry-after", b"")
    return Failure(0 if started else refusal.status, error, retry_after)


class MessageOutlet(ABC):
    """An Outlet that calls `piece` for each chunk of a stream, or once for an answer in one piece.

    `failure` is set when the reply was none: an error's status, an error event, or a stream that was cut.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.started = False
        self.failure: Failure | None = None
        self._exchange = exchange
        self._status = 0
        self._streams = False
        self._retry_after = b""
        self._body = bytearray()

    @abstractmethod
    async def piece(self, data: bytes) -> None:
        """Take one JSON object of the answer. Waits while the client reads slowly."""

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Learn what kind of reply comes."""
        named = dict(headers)
        self.started = True
        self._status = self._exchange.status = status
        self._streams = status == 200 and named.get(b"content-type", b"").startswith(_EVENT_STREAM)
        self._retry_after = named.get(b"retry-after", b"")

    async def write(self, chunk: bytes) -> None:
        """Take whole events, or a part of another body."""
        if self._exchange.first_byte is None:
            self._exchange.first_byte = time.perf_counter()
        if not self._streams:
            self._body += chunk
            return
        for name, data in events_of(chunk):
            if name == _ERROR or data.startswith(b'{"error":'):
                self.failure = Failure(0, _error_of(data))
            elif data != _DONE:
                await self.piece(data)

    async def end(self) -> None:
        """The reply is whole."""
        if self._streams:
            return
        if self._status == 200:
            await self.piece(bytes(self._body))
        else:
            self.failure = Failure(self._status, _error_of(self._body), self._retry_after)

    async def cut(self, refusal: Refusal, *, event_stream: bool) -> None:
        """The reply cannot be completed."""
        self._exchange.outcome = refusal.code
        self.failure = self.failure or failure_of(refusal, started=True)


def events_of(chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name (empty for the usual ones) and data of each event in a piece of an event stream. Comments are left out."""
    for block in chunk.replace(b"\r\n", b"\n").split(b"\n\n"):
        name, data = b"", []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                name = line[6:].strip()
        if data:
            yield name, b"\n".join(data)


def _error_of(body: bytes | bytearray) -> dict[str, Any]:
    """The inside of an error object; a sentence of ours where a replica sent something else."""
    try:
        error = msgspec.json.decode(body)["error"]
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return error
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, RecursionError):
        pass
    return failure_of(STREAM_CUT if not body else UPSTREAM_FAILED).error
