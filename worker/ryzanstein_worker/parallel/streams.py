"""The event loop's end of a channel of frames, and single frames on a bare socket. Knows no message of its own."""

import asyncio
import socket
from typing import Generic

from ryzanstein_worker.parallel.messages import Channel, ChannelClosedError, FrameCodec, In, Out


class StreamChannel(Generic[Out, In]):
    """One end of a connected stream socket, on the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codec: FrameCodec[Out, In]) -> None:
        self._reader = reader
        self._writer = writer
        self._codec = codec

    @classmethod
    async def open(cls, sock: socket.socket, codec: FrameCodec[Out, In]) -> "StreamChannel[Out, In]":
        """Takes the socket over."""
        return cls(*await asyncio.open_connection(sock=sock), codec)

    async def receive(self) -> In:
        """The next message. Raises ChannelClosedError at the end of the stream."""
        try:
            size = self._codec.body_size(await self._reader.readexactly(Channel.header_size))
            return self._codec.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelClosedError("the other side has gone") from error

    def post(self, message: Out) -> None:
        """Queue without waiting, for what is small and rare. That the other side has gone is told by `receive`."""
        if not self._writer.is_closing():
            self._writer.write(self._codec.encode(message))

    async def send(self, message: Out) -> None:
        """Queue, and wait while more lies queued than the socket takes. Raises ChannelClosedError, ValueError."""
        self.post(message)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ChannelClosedError("the other side has gone") from error

    def close(self) -> None:
        """What is queued still leaves, if the other side takes it."""
        self._writer.close()


async def read_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes and not one more of a non-blocking socket. Raises ChannelClosedError."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        try:
            count = await loop.sock_recv_into(sock, view)
        except OSError as error:
            raise ChannelClosedError(f"the connection broke: {error.strerror}") from error
        if count == 0:
            raise ChannelClosedError("the other side closed the connection")
        view = view[count:]
    return bytes(buffer)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Raises ChannelClosedError."""
    try:
        await asyncio.get_running_loop().sock_sendall(sock, data)
    except OSError as error:
        raise ChannelClosedError(f"the connection broke: {error.strerror}") from error


async def receive_one(sock: socket.socket, codec: FrameCodec[Out, In]) -> In:
    """One message of a non-blocking socket, and no byte beyond it: the rest may be another process' to read."""
    size = codec.body_size(await read_exactly(sock, Channel.header_size))
    return codec.decode(await read_exactly(sock, size))


async def send_one(sock: socket.socket, codec: FrameCodec[Out, In], message: Out) -> None:
    """Raises ChannelClosedError, ValueError."""
    await send_all(sock, codec.encode(message))
