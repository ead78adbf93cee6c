"""A replica that is nothing but a socket: each connection is handed to a script, which may send whatever it likes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection, from the replica's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises asyncio.IncompleteReadError where none comes."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        """Send bytes, and let the other side read them before anything else happens here."""
        self.writer.write(data)
        await self.writer.drain()
        for _ in range(3):
            await asyncio.sleep(0)


class RawServer:
    """Counts its connections."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.accepted = 0
        self.open: set[asyncio.StreamWriter] = set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open.add(writer)
        try:
            await self.script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has left
        finally:
            writer.close()
            self.open.discard(writer)


@asynccontextmanager
async def raw_server(script: Script) -> AsyncIterator[RawServer]:
    """A running server on loopback; every connection of it is closed afterwards."""
    raw = RawServer(script)
    server = await asyncio.start_server(raw._handle, "127.0.0.1", 0, backlog=1024)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        for writer in list(raw.open):
            writer.transport.abort()
        async with asyncio.timeout(20):
            while raw.open:
                await asyncio.sleep(0.01)
            await server.wait_closed()
