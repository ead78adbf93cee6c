"""One HTTP/1.1 connection to a replica: a request out, its reply in, piece by piece, no faster than it is read.

Knows bytes and framing (RFC 9112). The parser (llhttp, strict) refuses what could be read in two ways: both lengths,
two lengths, folded lines, bare line ends, control characters; what it lets through is refused here. Knows nothing of
pools, replicas or what may be sent again.
"""

import asyncio
from typing import Final

import httptools

from ryzanstein_gateway.exchange import Header

HIGH_WATER_BYTES: Final = 64 * 1024
"""Of a body's bytes that nobody has read yet: above it the connection is not read, so the replica has to wait. One
read of the event loop (at most 256 KiB) may go beyond."""
MAX_BARE_BYTES: Final = 64 * 1024
"""Of a reply's bytes in a row that are not of its body: head, interim replies, chunk extensions, trailers."""
_MAX_HEADERS: Final = 256


class UpstreamError(Exception):
    """A replica could not be spoken with."""


class ConnectFailed(UpstreamError):  # noqa: N818 - says what happened
    """No connection came about: the request has certainly not been started."""


class Broken(UpstreamError):  # noqa: N818 - says what happened
    """The connection was lost after the request had been sent, in part at least: it may have been started."""


class _Malformed(Exception):  # noqa: N818 - leaves a callback of the parser only to end the parsing
    """The replica's bytes are no reply that can be trusted."""


class Connection(asyncio.Protocol):
    """Takes one request at a time; whoever has it owns it from `send` on."""

    __slots__ = (
        *("_bare", "_ended", "_head_whole", "_held", "_keep", "_loop", "_lost", "_parser", "_paused", "_pieces"),
        *("_transport", "_until_close", "_waiter", "headers", "status"),
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._lost = self._paused = False
        self._begin()
        self._ended = True  # nothing was asked, so whatever comes is a reply too many

    def _begin(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self._pieces: list[bytes] = []
        self._held = self._bare = 0
        self._head_whole = self._ended = self._keep = self._until_close = False

    # --- the request's side ------------------------------------------------------------------------
    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._lost or self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Send a request; its reply is what comes from now on."""
        self._begin()
        if len(body) < HIGH_WATER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def head(self) -> None:
        """Wait for the reply's status and headers. Raises Broken."""
        while not self._head_whole:
            if self._lost:
                raise Broken
            await self._wait()

    async def read(self) -> bytes:
        """All that has come of the body since the last time, as soon as there is any; empty at the end. Raises Broken.

        What came before a connection was lost is handed out first.
        """
        while not self._pieces:
            if self._ended:
                return b""
            if self._lost:
                raise Broken
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    def reusable(self) -> bool:
        """Whether the connection may take another request.

        A reply that came before the whole request was sent, or whose rest was not read, leaves it in no known state.
        """
        sent = not self._lost and not self._transport.get_write_buffer_size()
        return self._ended and self._keep and sent and not self._paused and not self.closed

    def abort(self) -> None:
        """Close at once, whatever was still to be sent."""
        self._lost = True
        self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the event loop's side ---------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        """Connected."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed, or we did. Only a body without a length may end so, and not by a reset."""
        if self._until_close and exc is None and not self._lost:
            self._ended = True
        self._lost = True
        self._wake()
        del self._parser  # it holds our methods: without the circle all is freed now

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then wake the reader, once for all that came."""
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
        if self._bare > MAX_BARE_BYTES:
            self.abort()
        elif self._held > HIGH_WATER_BYTES and not self._lost:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    # --- the parser's side -------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        """A reply that answers nothing is none of ours."""
        if self._ended:
            raise _Malformed

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; after the head it is a trailer, which nobody reads."""
        if not self._head_whole:
            self.headers.append((name.lower(), value))
            if len(self.headers) > _MAX_HEADERS:
                raise _Malformed

    def on_headers_complete(self) -> None:
        """The head is whole, unless it was an interim one."""
        status = self._parser.get_status_code()
        if not 200 <= status <= 599 and (not 100 <= status <= 199 or status == 101):
            raise _Malformed
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise _Malformed
        if status < 200:
            self.headers.clear()
            return
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if encodings and encodings != [b"chunked"]:
            raise _Malformed
        framed = bool(encodings) or any(name == b"content-length" for name, _ in self.headers)
        self._until_close = not framed  # but for 204 and 304, which end right here
        self.status = status
        self._keep = self._parser.should_keep_alive()
        self._head_whole = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(body)
        self._held += len(body)
        self._bare = 0

    def on_message_complete(self) -> None:
        """The reply is whole, unless it was an interim one."""
        if self._head_whole:
            self._ended = True
