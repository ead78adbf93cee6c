"""A listening socket that lets in who holds the group's key, and is hurt by nobody else.

A connection that is silent, slow, speaks something else or has another key is dropped alone, with one line in the log.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ryzanstein_worker.parallel.handshake import admit
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import Seal

ADMISSION_SECONDS = 5.0
"""For the proof of the key and the first frame after it."""
MOST_WAITING = 64
"""Connections on their way in. One more ends the one that has waited longest: who holds the key is in within a moment,
so a flood keeps nobody out for long."""
_BREATH_SECONDS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guest:
    """A connection whose other end holds the key. The socket is non-blocking, and whoever receives it closes it."""

    sock: socket.socket
    seal: Seal
    address: str


class Door:
    """`receive` gets each guest and reads its first frame; ChannelClosedError from it drops the connection."""

    def __init__(self, listener: socket.socket, key: bytes, receive: Callable[[Guest], Awaitable[None]]) -> None:
        self._listener = listener
        self._key = key
        self._receive = receive
        self._waiting: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Until cancelled; closes the listening socket then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    sock, peer = await loop.sock_accept(self._listener)
                except OSError as error:  # no descriptors left, or a client that went while it waited
                    _log.warning("the group's port could not take a connection: %s", error.strerror)
                    await asyncio.sleep(_BREATH_SECONDS)
                    continue
                self._let_in(sock, str(peer[0]))
        finally:
            self._listener.close()
            for task in list(self._waiting):
                task.cancel()
            await asyncio.gather(*self._waiting, return_exceptions=True)

    def _let_in(self, sock: socket.socket, address: str) -> None:
        if len(self._waiting) >= MOST_WAITING:
            oldest = next(iter(self._waiting))
            _drop(self._waiting.pop(oldest), "too many wait at once")
            oldest.cancel()
        task = asyncio.create_task(self._admit(sock, address))
        self._waiting[task] = address
        task.add_done_callback(lambda task: self._waiting.pop(task, None))

    async def _admit(self, sock: socket.socket, address: str) -> None:
        try:
            tune(sock)
            async with asyncio.timeout(ADMISSION_SECONDS):
                seal = await admit(sock, self._key)
                await self._receive(Guest(sock, seal, address))
        except TimeoutError:
            sock.close()
            _drop(address, f"it said nothing that lets it in within {ADMISSION_SECONDS:g} s")
        except (ChannelClosedError, OSError) as error:
            sock.close()
            _drop(address, str(error))
        except BaseException:
            sock.close()
            raise


def tune(sock: socket.socket) -> None:
    """For the event loop, and for small frames that must not wait for one another."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _drop(address: str, reason: str) -> None:
    _log.warning("a connection to the group's port was dropped: %s", reason, extra={"peer": address})
