"""What the gateway says when it does not pass a request on: OpenAI's error shape, every sentence fixed.

Knows HTTP status codes and wording. No sentence ever repeats what a client sent.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import msgspec

INVALID_REQUEST: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"
_RETRY_SOON: Final = ((b"retry-after", b"2"),)
_CLOSE: Final = ((b"connection", b"close"),)
MOST_RETRY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to be refused, with the extra headers that go with it."""

    status: int
    code: str
    message: str
    type: str = INVALID_REQUEST
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return msgspec.json.encode({"error": error})

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """Ends the handling of a request with a refusal, as long as nothing has been sent."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def retry_after(refusal: Refusal, seconds: float, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Refusal:
    """The refusal with its Retry-After set: whole seconds, of 1 to a minute, since knowledge does not reach farther."""
    wait = min(MOST_RETRY_SECONDS, max(1, math.ceil(min(seconds, MOST_RETRY_SECONDS))))
    kept = tuple(header for header in refusal.headers if header[0] != b"retry-after")
    return replace(refusal, headers=(*kept, (b"retry-after", b"%d" % wait), *headers))


INVALID_KEY: Final = Refusal(
    401, "invalid_api_key", "A valid API key is required.", headers=((b"www-authenticate", b"Bearer"),)
)
MODEL_NOT_FOUND: Final = Refusal(404, "model_not_found", "The model does not exist or you do not have access to it.")
UNKNOWN_URL: Final = Refusal(404, "unknown_url", "Unknown request URL.")
METHOD_NOT_ALLOWED: Final = Refusal(405, "method_not_allowed", "This URL does not take this method.")
UPGRADE_REQUIRED: Final = Refusal(
    426,
    "upgrade_required",
    "This URL speaks WebSocket only.",
    headers=((b"upgrade", b"websocket"), (b"connection", b"upgrade")),
)
BODY_TOO_LARGE: Final = Refusal(413, "request_too_large", "The request body is too large.", headers=_CLOSE)
BODY_TOO_SLOW: Final = Refusal(408, "request_timeout", "The request body took too long to arrive.", headers=_CLOSE)
HEAD_TOO_SLOW: Final = Refusal(408, "request_timeout", "The request's headers took too long to arrive.")
HEAD_TOO_LARGE: Final = Refusal(431, "headers_too_large", "The request's headers are too large.")
BAD_HTTP: Final = Refusal(400, "bad_request", "The request is not valid HTTP.")
WRONG_CONTENT_TYPE: Final = Refusal(400, "unsupported_content_type", "Content-Type must be application/json.")
NOT_JSON: Final = Refusal(400, "invalid_json", "The request body is not a valid JSON object.")
TOO_DEEP: Final = Refusal(400, "invalid_json", "The request body is nested too deeply.")
DUPLICATE_KEYS: Final = Refusal(400, "invalid_json", "The request body has the same key twice.")
NO_MODEL: Final = Refusal(400, "missing_model", "The request body must name a model: a string of 1 to 256 characters.")
INVALID_MESSAGE: Final = Refusal(
    400, "invalid_message", "The message must be a JSON object of type create or cancel, as docs/api.md has it."
)
TAKEN_ID: Final = Refusal(409, "id_in_use", "A request with this id is running on this connection.")
SOCKET_FULL: Final = Refusal(429, "too_many_requests", "Too many requests are running on this connection.")
NO_REPLICA: Final = Refusal(503, "no_ready_replica", "No replica of this model is ready.", SERVER_ERROR, _RETRY_SOON)
OVERLOADED: Final = Refusal(
    503, "overloaded", "Every replica of this model is at its limit.", SERVER_ERROR, _RETRY_SOON
)
QUEUE_TIMEOUT: Final = Refusal(
    503, "overloaded", "No replica of this model became free in time.", SERVER_ERROR, _RETRY_SOON
)
REQUESTS_LIMITED: Final = Refusal(
    429, "rate_limit_exceeded", "This key has used up its requests per minute for this model.", "requests", _RETRY_SOON
)
TOKENS_LIMITED: Final = Refusal(
    429, "rate_limit_exceeded", "This key has used up its tokens per minute for this model.", "tokens", _RETRY_SOON
)
CONCURRENCY_LIMITED: Final = Refusal(
    429, "rate_limit_exceeded", "This key has too many requests at one time on this model.", "requests", _RETRY_SOON
)
BAD_PRIORITY: Final = Refusal(400, "invalid_priority", "The header x-ryzanstein-priority takes high, normal or low.")
PRIORITY_NOT_ALLOWED: Final = Refusal(403, "priority_not_allowed", "This key may not ask for high priority.")
TOO_MANY_CONNECTIONS: Final = Refusal(
    503, "too_many_connections", "The gateway has too many open connections.", SERVER_ERROR, _RETRY_SOON
)
UPSTREAM_FAILED: Final = Refusal(502, "upstream_error", "The replica failed before it answered.", SERVER_ERROR)
UPSTREAM_TIMEOUT: Final = Refusal(504, "timeout", "The request took longer than the gateway allows.", SERVER_ERROR)
QUARANTINED: Final = Refusal(
    422, "request_quarantined", "Replicas failed twice while they answered this request: it is not tried again."
)
STREAM_CUT: Final = Refusal(502, "upstream_error", "The replica failed while it answered.", SERVER_ERROR)
SHUTTING_DOWN: Final = Refusal(503, "shutting_down", "The gateway is shutting down.", SERVER_ERROR, _RETRY_SOON)
INTERNAL: Final = Refusal(500, "internal_error", "The gateway failed on this request.", SERVER_ERROR)
