"""HTTP/1.1 to the replicas: one POST, its reply in pieces, and whether a failure came before anything was sent.

Knows hosts and which connections are free; knows nothing of models, events or what may be sent again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ryzanstein_gateway.connection import Broken, ConnectFailed, Connection, UpstreamError
from ryzanstein_gateway.exchange import Header

__all__ = ["IDLE_SECONDS", "Broken", "ConnectFailed", "Pool", "Response", "UpstreamError"]

IDLE_SECONDS: Final = 3.0
"""Below the 5 s after which servers commonly close an idle connection, so that none is used while it closes."""
MAX_IDLE: Final = 512
"""Free connections kept for one replica."""
_OURS: Final = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"accept-encoding"})

_Address = tuple[str, int]


class Response:
    """A reply whose head has come. `headers` have their names in lower case."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name, which is in lower case."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    async def read(self) -> bytes:
        """The next piece of the body as soon as there is one; empty at the end. Raises Broken."""
        return await self._connection.read()


class Call:
    """One request, as a context: entered once the reply's head has come."""

    __slots__ = ("_address", "_body", "_connect_timeout", "_connection", "_head", "_pool")

    def __init__(self, pool: "Pool", address: _Address, head: bytes, body: bytes, connect_timeout: float) -> None:
        self._pool = pool
        self._address = address
        self._head = head
        self._body = body
        self._connect_timeout = connect_timeout

    async def __aenter__(self) -> Response:
        connection = self._pool.take(self._address) or await self._pool.connect(self._address, self._connect_timeout)
        self._connection = connection
        try:
            connection.send(self._head, self._body)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        return Response(connection)

    async def __aexit__(self, *_: object) -> None:
        self._pool.give(self._address, self._connection)


class Pool:
    """Connections to replicas, kept alive between requests. No proxy, no cookies, no redirects, bodies as they are.
    `connected`: told how many seconds each new one took."""

    def __init__(self, connected: Callable[[float], None] = lambda seconds: None) -> None:
        self._connected = connected
        self._free: dict[_Address, deque[tuple[float, Connection]]] = {}
        """Oldest first, each with the time at which it is to be closed."""
        self._sweep: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for free in self._free.values():
            for _, connection in free:
                connection.abort()
        self._free.clear()

    def post(
        self, host: str, port: int, path: str, headers: list[Header], body: bytes, *, connect_timeout: float
    ) -> Call:
        """Send a request; the context's Response, once its head has come. Raises ConnectFailed or Broken on entering.

        `host` is an IP address as it stands in a URL. Leaving the context before the reply's end closes the
        connection, and so tells the replica that nobody waits any more. Nothing is sent twice: a kept connection that
        the replica closes at this very moment is Broken. Raises ValueError for a header that could be read as two.
        """
        return Call(self, (host, port), _request_head(host, port, path, headers, len(body)), body, connect_timeout)

    def take(self, address: _Address) -> Connection | None:
        """The connection that was used last, if one is free and young enough."""
        free = self._free.get(address)
        while free:
            until, connection = free.pop()
            if not connection.closed:
                if asyncio.get_running_loop().time() < until:
                    return connection
                connection.abort()
        return None

    async def connect(self, address: _Address, timeout: float) -> Connection:
        """A new connection. Raises ConnectFailed."""
        began = time.perf_counter()
        connection = await connect(address, timeout)
        self._connected(time.perf_counter() - began)
        return connection

    def give(self, address: _Address, connection: Connection) -> None:
        """Keep a connection for the next request, or close it."""
        if not connection.reusable():
            connection.abort()
            return
        free = self._free.setdefault(address, deque())
        loop = asyncio.get_running_loop()
        free.append((loop.time() + IDLE_SECONDS, connection))
        if len(free) > MAX_IDLE:
            free.popleft()[1].abort()
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._close_old)

    def _close_old(self) -> None:
        now = asyncio.get_running_loop().time()
        for address, free in list(self._free.items()):
            while free and (free[0][0] <= now or free[0][1].closed):
                free.popleft()[1].abort()
            if not free:
                del self._free[address]
        again = min((free[0][0] for free in self._free.values()), default=None)
        self._sweep = None if again is None else asyncio.get_running_loop().call_at(again, self._close_old)


async def connect(address: _Address, timeout: float) -> Connection:
    """A new connection. Raises ConnectFailed."""
    try:
        async with asyncio.timeout(timeout):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, address[0].strip("[]"), address[1])
    except OSError as error:  # TimeoutError is one
        raise ConnectFailed from error
    return connection


def _request_head(host: str, port: int, path: str, headers: list[Header], length: int) -> bytes:
    fixed = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: {length}\r\n".encode("ascii")
    # An identity: what a replica compresses could not be passed on piece by piece.
    lines = [fixed, b"accept-encoding: identity\r\n", *(b"%b: %b\r\n" % header for header in headers), b"\r\n"]
    head = b"".join(lines)
    breaks = len(headers) + 5
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise ValueError("a header holds a line break")
    if any(name in _OURS for name, _ in headers):
        raise ValueError("a header is not the caller's to set")
    return head
