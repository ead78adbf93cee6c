"""How a failed call ends: HTTP's status codes as gRPC's, and the error object in the trailing metadata.

Knows both kinds of codes; no sentence of its own but for messages that are none.
"""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import grpc

from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1.openai import error_message

ERROR_METADATA: Final = "ryzanstein-error-bin"
Metadata = tuple[tuple[str, str | bytes], ...]

_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# An error event in a stream has no status, only its error object.
_STATUS_OF_CODE: Final = {
    "engine_lost": 503,
    "shutting_down": 503,
    "draining": 503,
    "overloaded": 503,
    "no_ready_replica": 503,
    "upstream_error": 502,
    "timeout": 504,
    "request_quarantined": 422,
    "rate_limit_exceeded": 429,
}


class Failure(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a call with a status. `metadata` goes into the trailers beside the error object."""

    def __init__(self, code: grpc.StatusCode, error: pb.Error, metadata: Metadata = ()) -> None:
        super().__init__(error.code or error.message)
        self.code = code
        self.error = error
        self.metadata = metadata


def code_of(status: int) -> grpc.StatusCode:
    """gRPC's code for a status of HTTP that is no success."""
    if status in _CODES:
        return _CODES[status]
    return grpc.StatusCode.INVALID_ARGUMENT if 400 <= status < 500 else grpc.StatusCode.INTERNAL


def failure_of(status: int, error: Mapping[str, Any], metadata: Metadata = ()) -> Failure:
    """A refusal of the REST API as the end of a call. `error` is the inside of its error object."""
    return Failure(code_of(status), error_message(error), metadata)


def failure_of_event(error: Mapping[str, Any]) -> Failure:
    """The error event of a stream as the end of a call."""
    default = 400 if error.get("type") == "invalid_request_error" else 500
    code = error.get("code")
    return failure_of(_STATUS_OF_CODE.get(code, default) if isinstance(code, str) else default, error)


def invalid(sentence: str) -> Failure:
    """A request that is none of the service's."""
    return failure_of(400, {"message": sentence, "type": "invalid_request_error", "code": "invalid_message"})


def slow_reader() -> Failure:
    """A client that has stopped reading: its call is given up."""
    error = pb.Error(message="The client reads too slowly.", type="invalid_request_error", code="slow_reader")
    return Failure(grpc.StatusCode.ABORTED, error)


def invalid_value(param: str, sentence: str) -> Failure:
    """A field whose value JSON could not even carry."""
    return failure_of(
        400, {"message": sentence, "type": "invalid_request_error", "param": param, "code": "invalid_value"}
    )


async def end_with(context: "grpc.aio.ServicerContext[Any, Any]", failure: Failure, extra: Metadata = ()) -> NoReturn:
    """End the call. Always raises, as gRPC wants it."""
    trailers = ((ERROR_METADATA, failure.error.SerializeToString()), *failure.metadata, *extra)
    await context.abort(failure.code, failure.error.message, trailing_metadata=trailers)
    raise AssertionError("abort has raised")
