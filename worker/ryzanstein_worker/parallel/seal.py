"""Frames that only the two ends of one connection can make: each carries a code over its place in the order and itself.

HMAC with SHA-256 (RFC 2104) under a key of the connection and the direction. A frame that is changed, left out, sent
twice, sent back or taken from another connection does not pass, and ends the channel. The content is not hidden.
"""

import hashlib
import hmac
import struct
from typing import Any

import msgspec

from ryzanstein_worker.parallel.messages import (
    HEADER,
    MAX_FRAME_BYTES,
    ChannelClosedError,
    FrameCodec,
    In,
    Out,
)

TAG_BYTES = hashlib.sha256().digest_size
_NUMBER = struct.Struct("<Q")


class Seal(msgspec.Struct, kw_only=True):
    """What one end needs to go on: keys, and how many frames went each way. Secret; for memory and pipes only."""

    send_key: bytes
    receive_key: bytes
    sent: int = 0
    received: int = 0

    def tag(self, frame: bytes) -> bytes:
        """The code of the next frame that leaves."""
        self.sent += 1
        return _code(self.send_key, self.sent, frame)

    def check(self, frame: bytes, tag: bytes) -> None:
        """Raises ChannelClosedError for what is not the next frame of the other end."""
        self.received += 1
        if not hmac.compare_digest(_code(self.receive_key, self.received, frame), tag):
            raise ChannelClosedError("a frame is not the other side's next one: its code does not match")


def _code(key: bytes, number: int, frame: bytes) -> bytes:
    return hmac.digest(key, _NUMBER.pack(number) + frame, "sha256")


class SealedCodec(FrameCodec[Out, In]):
    """A codec whose frames end in their code. Encodes and decodes in the order of the stream, each frame once."""

    def __init__(self, incoming: Any, seal: Seal, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        super().__init__(incoming, max_bytes=max_bytes + TAG_BYTES)
        self.seal = seal

    def encode(self, message: Out) -> bytes:
        body = self.encode_body(message, self.max_bytes - TAG_BYTES)
        frame = HEADER.pack(len(body) + TAG_BYTES) + body
        return frame + self.seal.tag(frame)

    def decode(self, body: bytes) -> In:
        if len(body) < TAG_BYTES:
            raise ChannelClosedError("a frame is too short to carry its code")
        plain, tag = body[:-TAG_BYTES], body[-TAG_BYTES:]
        self.seal.check(HEADER.pack(len(body)) + plain, tag)
        return super().decode(plain)
