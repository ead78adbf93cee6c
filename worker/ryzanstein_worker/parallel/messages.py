"""Frames over a connected stream socket: four bytes of length (little endian), then msgpack of one msgspec struct.

Knows no message of its own: the types are the caller's. Nothing is ever unpickled, and what does not decode to the
expected type, or is longer than the limit, ends the channel.
"""

import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 64 * 2**20
HEADER = struct.Struct("<I")

Out = TypeVar("Out")
In = TypeVar("In")


class ChannelClosedError(Exception):
    """The other side has gone, or sent what is no frame of this channel."""


class FrameCodec(Generic[Out, In]):
    """Structs to frames and back. `incoming` is the type In, or a union of tagged structs, that may arrive."""

    def __init__(self, incoming: Any, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(incoming)
        self.max_bytes = max_bytes

    def encode(self, message: Out) -> bytes:
        """Raises ValueError for a message beyond the limit: the sender's fault, and the channel stays whole."""
        body = self.encode_body(message, self.max_bytes)
        return HEADER.pack(len(body)) + body

    def encode_body(self, message: Out, max_bytes: int) -> bytes:
        """Raises ValueError."""
        body = self._encoder.encode(message)
        if len(body) > max_bytes:
            raise ValueError(f"a message of {len(body)} bytes exceeds the limit of {max_bytes}")
        return body

    def body_size(self, header: bytes) -> int:
        """Raises ChannelClosedError for a length beyond the limit, before a byte of it is read."""
        size = int(HEADER.unpack(header)[0])
        if size > self.max_bytes:
            raise ChannelClosedError(f"a frame of {size} bytes exceeds the limit of {self.max_bytes}")
        return size

    def decode(self, body: bytes) -> In:
        """Raises ChannelClosedError for what is not of the incoming type."""
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ChannelClosedError(f"a frame does not decode: {error}") from error


class Channel(Generic[Out, In]):
    """A blocking end of a socket, for the ranks. `on_wait` is called about every `tick` seconds while it blocks."""

    header_size = HEADER.size

    def __init__(
        self, sock: socket.socket, codec: FrameCodec[Out, In], *, on_wait: Callable[[], None], tick: float
    ) -> None:
        self._socket = sock
        self._socket.settimeout(tick)
        self._codec = codec
        self._on_wait = on_wait

    def send(self, message: Out) -> None:
        """Blocks while the other side does not read. Raises ChannelClosedError."""
        view = memoryview(self._codec.encode(message))
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                self._on_wait()
            except OSError as error:
                raise ChannelClosedError("the other side has gone") from error

    def receive(self) -> In:
        """The next message. Raises ChannelClosedError at the end of the stream."""
        return self._codec.decode(self._read(self._codec.body_size(self._read(HEADER.size))))

    def close(self) -> None:
        self._socket.close()

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:
                self._on_wait()
                continue
            except OSError as error:
                raise ChannelClosedError("the other side has gone") from error
            if count == 0:
                raise ChannelClosedError("the other side has gone")
            view = view[count:]
        return bytes(buffer)
