"""Sealed frames: the next frame of the other end passes, and nothing else does."""

import msgspec
import pytest

from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import TAG_BYTES, Seal, SealedCodec

HEADER = 4


class Note(msgspec.Struct, frozen=True):
    text: str


Codec = SealedCodec[Note, Note]


def _ends() -> tuple[Codec, Codec]:
    one, other = b"1" * 32, b"2" * 32
    return (
        SealedCodec(Note, Seal(send_key=one, receive_key=other), max_bytes=1000),
        SealedCodec(Note, Seal(send_key=other, receive_key=one), max_bytes=1000),
    )


def _read(codec: Codec, frame: bytes) -> Note:
    assert codec.body_size(frame[:HEADER]) == len(frame) - HEADER
    return codec.decode(frame[HEADER:])


def test_frames_pass_in_their_order_both_ways() -> None:
    a, b = _ends()
    for number in range(3):
        assert _read(b, a.encode(Note(f"to {number}"))) == Note(f"to {number}")
        assert _read(a, b.encode(Note(f"fro {number}"))) == Note(f"fro {number}")


def test_both_ends_go_on_where_others_left_off() -> None:
    a, b = _ends()
    _read(b, a.encode(Note("x")))
    heir: Codec = SealedCodec(Note, msgspec.msgpack.decode(msgspec.msgpack.encode(b.seal), type=Seal))
    assert _read(heir, a.encode(Note("y"))) == Note("y")


@pytest.mark.parametrize("at", [HEADER, HEADER + 3, -1])
def test_a_changed_byte_ends_the_channel(at: int) -> None:
    a, b = _ends()
    frame = bytearray(a.encode(Note("x" * 20)))
    frame[at] ^= 1
    with pytest.raises(ChannelClosedError, match="its code does not match"):
        b.decode(bytes(frame[HEADER:]))


def test_a_frame_twice_out_of_turn_or_sent_back_ends_the_channel() -> None:
    a, b = _ends()
    first, second = a.encode(Note("1")), a.encode(Note("2"))
    with pytest.raises(ChannelClosedError):
        _read(_ends()[1], second)  # the first is missing
    _read(b, first)
    with pytest.raises(ChannelClosedError):
        _read(b, first)
    with pytest.raises(ChannelClosedError):
        _read(a, first)  # its own


def test_what_is_too_short_or_too_long_is_told_before_it_is_read() -> None:
    a, b = _ends()
    with pytest.raises(ChannelClosedError, match="too short"):
        b.decode(b"x" * (TAG_BYTES - 1))
    with pytest.raises(ValueError, match="exceeds the limit"):
        a.encode(Note("x" * 1000))
    assert _read(b, a.encode(Note("x" * 900))) == Note("x" * 900), "a refused message counts for nothing"
    with pytest.raises(ChannelClosedError, match="exceeds the limit"):
        b.body_size((1000 + TAG_BYTES + 1).to_bytes(4, "little"))
