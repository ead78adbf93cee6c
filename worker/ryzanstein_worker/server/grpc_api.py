"""The gRPC API: messages into the requests that JSON would have given, and the answers of the same service back.

One validation and one engine behind both: what differs is the wire alone. Knows ryzanstein.v1 and the service; no
engine internals. Like the HTTP API it asks for no key: the gateway does, and network policies let nobody else in.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from ryzanstein.v1.methods import LIST_MODELS, Method
from ryzanstein.v1.openai import Object
from ryzanstein.v1.server import Call, Limits
from ryzanstein.v1.status import Failure, Metadata, failure_of
from ryzanstein_worker import contract
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.gate import Gate
from ryzanstein_worker.server.openai import ChatCompletionRequest, CompletionRequest
from ryzanstein_worker.server.parsing import check, salt_of
from ryzanstein_worker.server.quarantine import fingerprint
from ryzanstein_worker.server.responses import Answer
from ryzanstein_worker.server.service import Caller, Piece, Run, Service
from ryzanstein_worker.server.stream import as_api_error
from ryzanstein_worker.telemetry.logs import bound
from ryzanstein_worker.telemetry.tracing import Tracing

LIMITS: Final = Limits(max_message_bytes=16 << 20, max_metadata_bytes=64 << 10, max_connections=4096, max_streams=4096)
INLINE_BYTES: Final = 1 << 16
"""Requests up to this size are checked on the event loop; larger ones in a thread."""
_PASSED_ON: Final = ("retry-after", contract.HEADER_NOT_STARTED)

Request = CompletionRequest | ChatCompletionRequest


class GrpcApi:
    """Answers the calls to one worker."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate

    async def answer(self, method: Method, request: Any, call: Call) -> None:
        """Send the answer to one call. Raises Failure."""
        if method is LIST_MODELS:
            await call.send(method.answer({"data": [self._service.model().model_dump()]}))
            return
        try:
            with bound(request_id=call.request_id), self._gate.admitted():
                await self._generate(method, request, call)
        except Failure:
            raise
        except Exception as error:
            refused = as_api_error(error)
            self._service.refused(refused)
            raise _failure(refused) from None

    async def _generate(self, method: Method, request: Any, call: Call) -> None:
        arrival = time.monotonic()
        salt = salt_of(call.header(contract.HEADER_CACHE_SALT.encode()).decode("latin-1"))
        if request.ByteSize() <= INLINE_BYTES:
            parsed, mark = _read(method.body(request), method)
        else:
            parsed, mark = await asyncio.to_thread(lambda: _read(method.body(request), method))
        run = await self._prepare(parsed, Caller(arrival, salt, mark))
        if method.stream:
            await _send_all(self._service.stream(run), method, call)
        else:
            await call.send(_message(method, await self._service.whole(run)))

    async def _prepare(self, parsed: Request, caller: Caller) -> Run:
        if isinstance(parsed, CompletionRequest):
            return await self._service.completion(parsed, caller)
        return await self._service.chat(parsed, caller)


class Traced:
    """The same, with a span around each call that generates."""

    def __init__(self, api: GrpcApi, tracing: Tracing) -> None:
        self._api = api
        self._tracing = tracing

    async def answer(self, method: Method, request: Any, call: Call) -> None:
        """Send the answer to one call. Raises Failure."""
        if method is LIST_MODELS:
            await self._api.answer(method, request, call)
            return
        with self._tracing.request(method.path, call.metadata, call.request_id, "grpc"):
            await self._api.answer(method, request, call)


def _read(body: Object, method: Method) -> tuple[Request, bytes]:
    """The checked request and the mark by which a crash is laid to it. Raises ApiError."""
    parsed: Request
    if method.path == contract.COMPLETIONS:
        parsed = check(body, CompletionRequest)
    else:
        parsed = check(body, ChatCompletionRequest)
    return parsed, fingerprint(msgspec.json.encode(body))


async def _send_all(pieces: AsyncGenerator[Piece, None], method: Method, call: Call) -> None:
    async with aclosing(pieces) as coming:
        async for piece in coming:
            for answer in piece.answers:
                await call.send(_message(method, answer))


def _message(method: Method, answer: Answer) -> Any:
    return method.answer(answer.model_dump(exclude_unset=True))


def _failure(error: ApiError) -> Failure:
    metadata: Metadata = tuple((name, error.headers[name]) for name in _PASSED_ON if name in error.headers)
    return failure_of(error.status, error.body.error.model_dump(), metadata)
