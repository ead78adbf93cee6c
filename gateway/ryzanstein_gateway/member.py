"""A gateway process that is one of several: what it tells its parent, and how.

Each second, and at once when it has news, one line of JSON over an inherited socket. The other way come single words.
The parent's end closing is the parent's death: the member drains then, rather than live on unseen. Knows no process but
its own.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from ryzanstein_gateway.exemplars import Exemplar
from ryzanstein_gateway.exposition import Family

MAX_REPORT_BYTES: Final = 4 * 1024 * 1024
DEBUG, USUAL = "debug", "usual"
"""What the parent may say: log everything, or what is configured."""
_MOST_UNSENT_BYTES: Final = MAX_REPORT_BYTES


class Report(msgspec.Struct, frozen=True):
    """How a member fares. `not_ready`: empty when it takes requests, else why not."""

    not_ready: str
    view: tuple[Family, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    """Those that are new since the report before."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A member's place among the processes, given to it on its command line."""

    slot: int
    """From 0; a successor takes over its predecessor's."""
    port: int
    """The API's, shared by all."""
    directory: Path
    """Shared by all, empty at the start, gone with the parent."""
    channel: int
    """Descriptor of the socket to the parent."""


class Channel:
    """The member's end of the socket to its parent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, descriptor: int) -> "Channel":
        """Over the inherited descriptor, which is this object's from now on."""
        return cls(*await asyncio.open_connection(sock=socket.socket(fileno=descriptor)))

    def send(self, report: Report) -> None:
        """Tell the parent; while it does not listen, leave out what would pile up."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() < _MOST_UNSENT_BYTES:
            transport.write(msgspec.json.encode(report) + b"\n")

    async def obey(self, order: Callable[[str], None]) -> None:
        """Hand on each word of the parent's, one of DEBUG and USUAL. Returns when the parent has died."""
        while True:
            try:
                line = await self._reader.readline()
            except (OSError, ValueError):
                return
            if not line.endswith(b"\n"):
                return
            order(line.decode("ascii", "replace").strip())


async def read_report(reader: asyncio.StreamReader) -> Report | None:
    """The next report of a member, for the parent; None at the end. Raises ValueError for what is no report."""
    line = await reader.readline()
    return msgspec.json.decode(line, type=Report) if line.endswith(b"\n") else None


def bind_shared(host: str, port: int) -> socket.socket:
    """A socket on a port that the same user's other processes may bind too. It takes no connection until it listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    return one
