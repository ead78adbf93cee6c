"""How another pod comes into a group: it calls node rank 0 again and again until the group starts."""

import asyncio
import logging
import socket
from dataclasses import dataclass

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.engine.local import Wire
from ryzanstein_worker.engine.meeting import Address, call, pause
from ryzanstein_worker.engine.node_frames import (
    Attach,
    FromHead,
    FromMember,
    Join,
    Signs,
    Start,
    TurnedAway,
    Welcome,
)
from ryzanstein_worker.engine.silence import sign_seconds
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel.interfaces import interface_of
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import SealedCodec
from ryzanstein_worker.parallel.streams import StreamChannel, receive_one, send_one

_log = logging.getLogger(__name__)

HeadChannel = StreamChannel[FromMember, FromHead]
_Codec = SealedCodec[FromMember, FromHead]


@dataclass(frozen=True)
class Joined:
    """A group has started, and this pod is in it."""

    channel: HeadChannel
    epoch: str
    interface: str  # of the network that node rank 0 is reached by


class Caller:
    """Knows whom to call and what to show."""

    def __init__(self, config: EngineConfig, group: GroupConfig, key: bytes, settings: Join) -> None:
        self._config = config
        self._group = group
        self._key = key
        self._settings = settings
        self.obstacle = "it was not called yet"  # why it could not be joined the last time
        self._head: Address | None = None  # where it was joined: a name server that is away must not end a group

    async def join(self) -> Joined:
        """For as long as it takes. Raises ConfigError where it is refused for ever."""
        while True:
            try:
                return await self._try()
            except ChannelClosedError as error:
                if str(error) != self.obstacle:
                    self.obstacle = str(error)
                    where = {"host": self._group.master_addr, "port": self._group.master_port}
                    _log.info("node rank 0 cannot be joined yet: %s", self.obstacle, extra=where)
            await pause()

    async def attach(self, epoch: str, rank: int) -> Wire:
        """A connection for a rank of this pod. Raises ChannelClosedError."""
        try:
            async with asyncio.timeout(self._config.hang_timeout_seconds):
                sock, codec = await self._call(Attach(epoch=epoch, rank=rank))
                answer = await receive_one(sock, codec)
        except TimeoutError:
            raise ChannelClosedError("it gives no sign of life") from None
        if isinstance(answer, Welcome):
            return Wire(sock, codec.seal)
        sock.close()
        raise ChannelClosedError(answer.sentence if isinstance(answer, TurnedAway) else "it spoke out of turn")

    async def _try(self) -> Joined:
        """Raises ChannelClosedError, ConfigError."""
        self._head = None
        sock, codec = await self._call(self._settings)
        self._head = (sock.family, sock.getpeername()[:2])
        interface = interface_of(sock.getsockname()[0])
        channel = await HeadChannel.open(sock, codec)
        signing = asyncio.create_task(self._sign(channel))
        try:
            while True:
                async with asyncio.timeout(self._config.hang_timeout_seconds):
                    message = await channel.receive()
                if isinstance(message, TurnedAway):
                    raise (ConfigError if message.final else ChannelClosedError)(message.sentence)
                if isinstance(message, Start):
                    return Joined(channel, message.epoch, interface)
        except BaseException as error:
            channel.close()
            if isinstance(error, TimeoutError):
                raise ChannelClosedError("it gives no sign of life") from None
            raise
        finally:
            signing.cancel()

    async def _sign(self, channel: HeadChannel) -> None:
        while True:
            channel.post(Signs(ranks=[]))
            await asyncio.sleep(sign_seconds(self._config))

    async def _call(self, first: Join | Attach) -> tuple[socket.socket, _Codec]:
        sock, seal = await call(self._group, self._key, self._head)
        codec: _Codec = SealedCodec(FromHead, seal)
        try:
            await send_one(sock, codec, first)
        except BaseException:
            sock.close()
            raise
        return sock, codec
