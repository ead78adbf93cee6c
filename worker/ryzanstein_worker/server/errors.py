"""Errors as OpenAI's clients expect them, and the sentences that go into them.

Every sentence here is fixed: it may name the client's own field or a limit of ours, never an exception's text,
a path, an address or another request's content.
"""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel

from ryzanstein_worker.contract import HEADER_LOST, HEADER_NOT_STARTED
from ryzanstein_worker.telemetry.metrics import Refused

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
_LOST, _FAILED = "engine_lost", "engine_error"
_BY_CODE: Final[Mapping[str, Refused]] = {
    "draining": "draining",
    "overloaded": "overloaded",
    "request_quarantined": "quarantined",
    "context_length_exceeded": "too_long",
    "model_not_found": "unknown_model",
}
_BY_STATUS: Final[Mapping[int, Refused]] = {408: "too_slow", 413: "too_large"}


class ErrorBody(BaseModel):
    """The inside of an error answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """An error answer, also the payload of a stream's `error` event."""

    error: ErrorBody


class ApiError(Exception):
    """Ends one request with a status and a fixed sentence."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        lost: Literal["crash", "drain"] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.lost = lost  # set where nothing of the request was at fault and another replica can go on with it
        self.body = ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=code))
        self.headers = dict(headers or {}) | ({HEADER_LOST: lost} if lost else {})

    @property
    def started(self) -> bool:
        """Whether anything of the request ran in the engine."""
        return self.body.error.code in (_LOST, _FAILED)

    @property
    def refused(self) -> Refused:
        """Of a request that was not started: why, in one of a few words."""
        known = _BY_CODE.get(self.body.error.code or "") or _BY_STATUS.get(self.status)
        return known or ("failed" if self.status >= 500 else "invalid")


def model_not_found(served_name: str) -> ApiError:
    return ApiError(
        404,
        f"The model does not exist here; this worker serves '{served_name}'.",
        param="model",
        code="model_not_found",
    )


def context_exceeded(
    max_model_len: int, num_prompt: int, max_tokens: int | None, *, at_least: bool = False
) -> ApiError:
    """OpenAI's sentence, by which clients recognise a prompt they should shorten."""
    about = "at least " if at_least else ""
    asked = (
        f"your messages resulted in {about}{num_prompt} tokens"
        if max_tokens is None
        else f"you requested {about}{num_prompt + max_tokens} tokens "
        f"({num_prompt} in the prompt, {max_tokens} in the completion)"
    )
    return ApiError(
        400,
        f"This model's maximum context length is {max_model_len} tokens. However, {asked}. Please reduce the length "
        "of the prompt or of the completion.",
        param="messages",
        code="context_length_exceeded",
    )


def not_started(reason: str, sentence: str) -> ApiError:
    """503 for a request of which nothing has run: another replica may take it."""
    return ApiError(
        503, sentence, kind=SERVER_ERROR, code=reason, headers={"retry-after": "1", HEADER_NOT_STARTED: reason}
    )


def quarantined() -> ApiError:
    return ApiError(
        422,
        "The engine crashed twice while this request was running; it is not run again for an hour.",
        code="request_quarantined",
    )


def engine_failed() -> ApiError:
    return ApiError(500, "The engine could not complete this request.", kind=SERVER_ERROR, code=_FAILED)


def engine_lost(how: Literal["crash", "drain"]) -> ApiError:
    return ApiError(
        503,
        "The engine ended while this request was running.",
        kind=SERVER_ERROR,
        code=_LOST,
        headers={"retry-after": "5"},
        lost=how,
    )


def internal() -> ApiError:
    return ApiError(500, "The server failed to handle this request.", kind=SERVER_ERROR, code="internal_error")
