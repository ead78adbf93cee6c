"""Frames over real sockets: whole messages or a clean end, whatever the other side does."""

import socket
import struct
import threading
from collections.abc import Iterator

import msgspec
import pytest

from processes import wait_until
from ryzanstein_worker.parallel.messages import Channel, ChannelClosedError, FrameCodec


class Note(msgspec.Struct, frozen=True):
    text: str


class Ends:
    """A channel, the raw socket at its other end, and how often the channel said that it waits."""

    def __init__(self, max_bytes: int = 2**20) -> None:
        ours, self.raw = socket.socketpair()
        self.waits = 0
        codec: FrameCodec[Note, Note] = FrameCodec(Note, max_bytes=max_bytes)
        self.codec = codec
        self.channel: Channel[Note, Note] = Channel(ours, codec, on_wait=self._waited, tick=0.02)

    def _waited(self) -> None:
        self.waits += 1


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    made.raw.close()


def test_messages_arrive_whole_however_the_bytes_are_cut(ends: Ends) -> None:
    data = ends.codec.encode(Note("a" * 300)) + ends.codec.encode(Note("b"))

    def trickle() -> None:
        for at in range(0, len(data), 7):
            ends.raw.sendall(data[at : at + 7])

    sender = threading.Thread(target=trickle)
    sender.start()
    assert [ends.channel.receive(), ends.channel.receive()] == [Note("a" * 300), Note("b")]
    sender.join()


def test_a_blocked_side_says_that_it_waits_and_loses_nothing(ends: Ends) -> None:
    note = Note("x" * 900_000)  # more than a socket's buffer
    sender = threading.Thread(target=ends.channel.send, args=[note])
    sender.start()
    wait_until(lambda: ends.waits > 1, 30.0, "it says again that it waits")
    assert sender.is_alive()
    frame, received = ends.codec.encode(note), bytearray()
    while len(received) < len(frame):
        received += ends.raw.recv(2**16)
    sender.join(30)
    assert not sender.is_alive()
    assert bytes(received) == frame


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 2**31) + b"x",
        struct.pack("<I", 3) + b"abc",
        struct.pack("<I", 1) + b"\xc0",
        struct.pack("<I", 5) + b"x",
        b"",
    ],
    ids=["too long", "no msgpack of that type", "nil", "cut off", "nothing"],
)
def test_what_is_no_frame_ends_the_channel(ends: Ends, data: bytes) -> None:
    ends.raw.sendall(data)
    ends.raw.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosedError):
        ends.channel.receive()


def test_a_message_beyond_the_limit_is_not_sent_and_the_channel_goes_on(ends: Ends) -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        ends.channel.send(Note("x" * 2**21))
    ends.channel.send(Note("y"))
    assert ends.raw.recv(100) == ends.codec.encode(Note("y"))


def test_sending_to_one_who_has_gone_says_so(ends: Ends) -> None:
    ends.raw.close()
    with pytest.raises(ChannelClosedError):
        ends.channel.send(Note("x"))
