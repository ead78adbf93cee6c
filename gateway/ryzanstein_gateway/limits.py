"""What a request may look like: size and pace of the body, its type, and the one field the gateway reads.

Knows ASGI's receive and JSON; knows nothing of models, keys or upstreams.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeVar

import msgspec

from ryzanstein_gateway.deadline import Deadline
from ryzanstein_gateway.errors import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    DUPLICATE_KEYS,
    NO_MODEL,
    NOT_JSON,
    TOO_DEEP,
    WRONG_CONTENT_TYPE,
    Refusal,
    Refused,
)

MAX_MODEL_CHARACTERS: Final = 256

Headers = Iterable[tuple[bytes, bytes]]
T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):  # noqa: N818 - an event, not a fault
    """The client closed the connection."""


class _Key:
    """A key of a JSON object, equal only to itself: a dict of these keeps duplicates apart."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


# One pass over the body, values left as raw slices: syntax and depth are checked, nothing is built.
_DECODER: Final = msgspec.json.Decoder(dict[_Key, msgspec.Raw], dec_hook=lambda _, name: _Key(name))
_STRING: Final = msgspec.json.Decoder(str)


def check_content_type(headers: Headers) -> None:
    """Raises Refused unless there is one Content-Type and it is application/json, with any parameters."""
    values = [value for name, value in headers if name == b"content-type"]
    if len(values) != 1 or values[0].partition(b";")[0].strip().lower() != b"application/json":
        raise Refused(WRONG_CONTENT_TYPE)


def check_length(headers: Headers, max_bytes: int) -> None:
    """Raises Refused when Content-Length already says too much, so that no byte of it is read."""
    for name, value in headers:
        if name == b"content-length" and int(value) > max_bytes:  # the parser has seen that it is a number
            raise Refused(BODY_TOO_LARGE)


async def read_body(receive: Receive, *, max_bytes: int, limit: Deadline) -> bytes:
    """The whole body. Raises Refused when it is too large or too slow, ClientGone when the client leaves."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise Refused(BODY_TOO_LARGE)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise Refused(BODY_TOO_SLOW) from None


def members_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of a body's object, none of them parsed. Raises Refused: no object, too deep, a key twice."""
    members = _decode(_DECODER, body, NOT_JSON)
    values = {key.name: value for key, value in members.items()}
    if len(values) != len(members):
        raise Refused(DUPLICATE_KEYS)
    return values


def model_of(members: Mapping[str, msgspec.Raw]) -> str:
    """The `model` that a body names. Raises Refused where it names none."""
    model = _decode(_STRING, members.get("model", b"null"), NO_MODEL)
    if not 0 < len(model) <= MAX_MODEL_CHARACTERS:
        raise Refused(NO_MODEL)
    return model


def _decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, refusal: Refusal) -> T:
    try:
        return decoder.decode(data)
    except RecursionError:
        raise Refused(TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refused(refusal) from None
