"""The HTTP server's limits below the application: connections, size and duration of a request's head.

uvicorn's httptools protocol bounds neither, so this one does. Knows sockets and bytes, nothing of requests' meaning.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ryzanstein_gateway.errors import (
    BAD_HTTP,
    BODY_TOO_LARGE,
    HEAD_TOO_LARGE,
    HEAD_TOO_SLOW,
    TOO_MANY_CONNECTIONS,
    Refusal,
)
from ryzanstein_gateway.settings import Settings

ABORT: Final = "ryzanstein.abort"
"""ASGI extension: a function that closes the connection after what has been sent, in mid-response."""

GONE: Final = "ryzanstein.gone"
"""ASGI extension: a function that takes what is to be called, once, when the client has left; None: nothing any more.
A task that waits for http.disconnect would do the same and cost each stream its memory."""

OnGone = Callable[[], object] | None
Watch = Callable[[OnGone], None]

DRAIN: Final = "ryzanstein.drain"
"""ASGI message to a WebSocket's application: close once the running requests have ended."""


class BoundedProtocol(HttpToolsProtocol):
    """HttpToolsProtocol that refuses a head that is too large or too slow, connections beyond a number, and trailers
    or chunks' extensions as large as no head may be: the parser collects them before anybody sees them."""

    settings: Settings
    """Set by `bounded_protocol`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin a connection, or turn it away."""
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._framing_bytes = 0
        self._gone = False
        self._on_gone: OnGone = None
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(TOO_MANY_CONNECTIONS)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_timer()
        super().connection_lost(exc)
        self._gone = True
        if self._on_gone is not None:
            self._on_gone()

    def shutdown(self) -> None:
        """The gateway ends: a response that has not begun says that the connection does too. One that did not say so
        promised the connection to the client, who may have written its next request before it learns that nobody reads
        it, and must not send it twice (RFC 9112, 9.3.1 and 9.5). So an idle connection stays for as long as a gateway
        that drains accepts new ones; what is asked on it is answered, with Connection: close.
        """
        self.timeout_keep_alive = min(self.timeout_keep_alive, max(1, round(self.settings.drain_grace_seconds)))
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Feed the parser, counting the bytes of an unfinished head, and those since the last of a body."""
        if self._in_head:
            self._head_bytes += len(data)
        self._framing_bytes += len(data)
        super().data_received(data)
        if self._in_body and self._framing_bytes > self.settings.max_head_bytes and not self.transport.is_closing():
            self._refuse_framing()
        # A head that came whole has been measured in on_headers_complete; this is one that does not end.
        if self._in_head and self._head_bytes and not self.transport.is_closing():
            if self._head_bytes > self.settings.max_head_bytes:
                self._refuse(HEAD_TOO_LARGE)
            elif self._head_timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        """A new request on the connection."""
        super().on_message_begin()
        self._in_head = True
        self._in_body = False

    def on_headers_complete(self) -> None:
        """The head is whole: stop its clock, check its size, hand it on."""
        self._stop_timer()
        self._in_head = False
        came, self._head_bytes = self._head_bytes, 0
        self._in_body = True
        self._framing_bytes = 0
        # It is no larger than what came with it, and that was counted, but for a second request in one packet.
        limit = self.settings.max_head_bytes
        if not 0 < came <= limit and self._size_of_head() > limit:
            self._refuse(HEAD_TOO_LARGE)
            return
        self.scope["extensions"] = {ABORT: {"close": self.transport.close}, GONE: {"watch": self._watch}}
        super().on_headers_complete()

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _watch(self, on_gone: OnGone) -> None:
        self._on_gone = on_gone
        if self._gone and on_gone is not None:
            on_gone()

    def on_body(self, body: bytes) -> None:
        """A piece of the body; of a request that was turned away it is dropped."""
        self._framing_bytes = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the body."""
        self._in_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand a connection over, unless its head has been refused."""
        if not self.transport.is_closing():
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed gets OpenAI's error shape too."""
        if not self.transport.is_closing():
            self._refuse(BAD_HTTP)

    def _refuse_framing(self) -> None:
        if self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(BODY_TOO_LARGE)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.head_timeout_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(HEAD_TOO_SLOW)
        else:  # nothing was asked, so nothing is answered
            self._stop_timer()
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, refusal: Refusal) -> None:
        self._stop_timer()
        body = refusal.body()
        head = [b"content-type: application/json", b"connection: close", b"content-length: %d" % len(body)]
        head += [b"%b: %b" % header for header in refusal.headers if header[0] != b"connection"]
        self.transport.write(STATUS_LINE[refusal.status] + b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.close()


def bounded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `http` argument."""
    attributes: dict[str, Any] = {"settings": settings}
    return type("Protocol", (BoundedProtocol,), attributes)
