"""One request and its reply: what the access log and the metrics want to know, and the way bytes go out.

Knows ASGI messages; knows nothing of models' whereabouts.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ryzanstein_gateway.errors import Refusal
from ryzanstein_gateway.protocol import ABORT
from ryzanstein_gateway.trace import UNTRACED, Trace
from ryzanstein_worker.contract import HEADER_REQUEST_ID

REQUEST_ID: Final = HEADER_REQUEST_ID.encode()
_PROTOCOLS: Final = {"WEBSOCKET": "websocket", "GRPC": "grpc"}
"""By what an Exchange has for a method where it is none of HTTP's."""
_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

Header = tuple[bytes, bytes]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class Exchange:
    """Filled in as the request goes its way. Times are of time.perf_counter, in seconds."""

    method: str
    path: str
    headers: list[Header]
    request_id: str
    began: float = field(default_factory=time.perf_counter)
    model: str = ""
    endpoint: str = ""
    tries: int = 0
    migrations: int = 0
    prompt_tokens: int | None = None
    """As the replica says; None where it does not."""
    completion_tokens: int | None = None
    """Of a stream as counted from its journal, else as the replica says; None where it does neither."""
    queued: float = 0.0
    """Seconds that it waited to be let in."""
    key_id: str = ""
    """Names the key without telling anything of it; auth.key_id."""
    trace: Trace = UNTRACED
    status: int = 0
    first_byte: float | None = None
    first_token: float | None = None
    """Of a stream whose replica tells its tokens: when the first of them came."""
    last_token: float | None = None
    outcome: str = ""

    @property
    def protocol(self) -> str:
        """http, websocket or grpc."""
        return _PROTOCOLS.get(self.method, "http")

    def ids(self) -> dict[str, str]:
        """For a log line's `extra`: what it is about."""
        return {"request_id": self.request_id, "trace_id": self.trace.id}

    @classmethod
    def begin(cls, scope: Scope) -> "Exchange":
        """From an ASGI scope; the client's request id is kept if it is one of harmless shape."""
        headers: list[Header] = scope["headers"]
        given = next((value for name, value in headers if name == REQUEST_ID), b"")
        request_id = given.decode() if _GOOD_ID.fullmatch(given) else os.urandom(16).hex()
        return cls(method=scope.get("method", "GET"), path=scope["path"], headers=headers, request_id=request_id)


class Outlet(Protocol):
    """Where a reply goes, whatever the protocol: HTTP's Reply here, a message of a WebSocket, a gRPC call."""

    @property
    def started(self) -> bool:
        """Whether anything went out. From then on no other status can be said."""
        ...

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Status and headers; comes before the first byte of the body."""
        ...

    async def write(self, chunk: bytes) -> None:
        """A piece of the body: of an event stream always whole events. Waits while the client reads slowly."""
        ...

    async def end(self) -> None:
        """The body is complete."""
        ...

    async def cut(self, refusal: Refusal, *, event_stream: bool) -> None:
        """The body cannot be completed: say why where that can be said."""
        ...


class Reply:
    """The way out of one exchange. `started` is the point of no return: after it no other status can be sent."""

    def __init__(self, exchange: Exchange, scope: Scope, send: Send, *, closing: bool) -> None:
        self.started = False
        self.ended = False
        """Whether the client has been given all: whether it then stays or leaves is the same."""
        self._exchange = exchange
        self._send = send
        self._closing = closing
        self._abort = scope.get("extensions", {}).get(ABORT, {}).get("close")

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send status and headers, with the request id, and Connection: close while the gateway drains."""
        out = [*headers, (REQUEST_ID, self._exchange.request_id.encode())]
        if self._closing:
            out.append((b"connection", b"close"))
        self.started = True
        self._exchange.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": out})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body as it is. Waits while the client reads slowly."""
        if self._exchange.first_byte is None:
            self._exchange.first_byte = time.perf_counter()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """Complete the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.ended = True
        # What was written goes out when this turn of the event loop ends: what is left to do here can wait for that.
        await asyncio.sleep(0)

    async def json(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """Send a whole JSON response."""
        fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.start(status, [*fixed, *headers])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal as a whole response."""
        self._exchange.outcome = self._exchange.outcome or refusal.code
        await self.json(refusal.status, refusal.body(), refusal.headers)

    async def cut(self, refusal: Refusal, *, event_stream: bool) -> None:
        """End a response that has begun and cannot be completed: say why if it is a stream of events, then hang up.

        The body stays without its end (no [DONE], no last chunk), so that no client takes it for whole.
        """
        self._exchange.outcome = refusal.code
        if event_stream:
            await self.write(b"\n\n" + refusal.event())
        if self._abort is not None:
            self._abort()
