"""The state in which another replica left a stream, as the gateway hands it on to be continued. Knows JSON only.

    {"request": the client's body as it was,
     "resume": {"id", "created", "seed", "choices": [{"token_ids", "num_cached"}, ...]}}

What these must be for a given request is `run`'s to check.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.openai import MAX_CHOICES

MAX_OUTPUT_TOKENS = 1 << 20
"""Of one choice; no model's context is longer."""


class ResumedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tokens of one choice whose events the client has; none where it has not begun."""

    token_ids: Annotated[list[Annotated[int, Meta(ge=0, lt=1 << 31)]], Meta(max_length=MAX_OUTPUT_TOKENS)]
    num_cached: Annotated[int, Meta(ge=0, lt=1 << 31)]


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who the answer is, and how far it has come."""

    id: Annotated[str, Meta(pattern=r"\A(chatcmpl|cmpl)-[0-9a-f]{32}\Z")]
    created: Annotated[int, Meta(ge=0, lt=1 << 40)]  # Unix seconds
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # of the first choice
    choices: Annotated[list[ResumedChoice], Meta(min_length=1, max_length=MAX_CHOICES)]


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request: msgspec.Raw
    resume: Resume


_decoder = msgspec.json.Decoder(_Envelope)


def open_envelope(body: bytes) -> tuple[bytes, Resume]:
    """The client's body, byte for byte, and the state. Raises ApiError."""
    try:
        envelope = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed() from None
    return bytes(envelope.request), envelope.resume


def malformed() -> ApiError:
    """400: the state is none that this request can be in."""
    return ApiError(400, "The state to resume from does not fit the request.", param="resume", code="invalid_value")
