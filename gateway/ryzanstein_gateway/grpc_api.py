"""The gRPC API: each call becomes the same request that its JSON twin would, and takes the same way.

Knows ryzanstein.v1; the way of a request is the pipeline's. Default-deny: every call needs a key, reflection and
health's other methods included; only Health/Check is open, for it tells no more than a probe does.
"""

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import msgspec

from ryzanstein.v1.methods import LIST_MODELS, Method
from ryzanstein.v1.openai import Object
from ryzanstein.v1.server import Call, Context, Header, Limits
from ryzanstein.v1.status import Failure as CallFailure
from ryzanstein.v1.status import Metadata, end_with, failure_of_event, invalid_value
from ryzanstein.v1.status import failure_of as call_failure_of
from ryzanstein_gateway.auth import ANYONE, Principal, authenticate
from ryzanstein_gateway.errors import BODY_TOO_LARGE, UPSTREAM_FAILED, Refusal, Refused
from ryzanstein_gateway.exchange import Exchange
from ryzanstein_gateway.messages import Failure, MessageOutlet, failure_of
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.pipeline import Pipeline, read_generation
from ryzanstein_gateway.settings import Settings
from ryzanstein_worker.contract import HEADER_REQUEST_ID

PROTOCOL: Final = "GRPC"
"""What the access log has for a method."""
OPEN_METHODS: Final = frozenset({"/grpc.health.v1.Health/Check"})
CLIENT_CLOSED: Final = 499
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_principal: contextvars.ContextVar[Principal] = contextvars.ContextVar("principal")
"""Who calls: set by the Door, in the context of the one call."""


def limits(settings: Settings) -> Limits:
    """The transport's limits, as those of HTTP."""
    return Limits(
        max_message_bytes=settings.max_body_bytes,
        max_metadata_bytes=settings.max_head_bytes,
        max_connections=settings.max_connections,
        handshake_seconds=settings.head_timeout_seconds,
    )


@dataclass(frozen=True)
class Door(grpc.aio.ServerInterceptor):
    """Lets a call in whose metadata hold a valid key."""

    settings: Settings
    digests: Callable[[], Mapping[str, frozenset[str]]]
    metrics: Metrics
    pipeline: Pipeline

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, or one that turns the call away, whether there is such a method or not."""
        if handler_call_details.method in OPEN_METHODS:
            return await continuation(handler_call_details)
        metadata = _headers(handler_call_details.invocation_metadata)
        try:
            principal = authenticate(metadata, self.digests()) if self.settings.auth_required else ANYONE
        except Refused as refused:
            return self._turn_away(str(handler_call_details.method), metadata, refused.refusal)
        _principal.set(principal)
        return await continuation(handler_call_details)

    def _turn_away(self, method: str, metadata: list[Header], refusal: Refusal) -> "Handler":
        async def end(_: Any, context: Context) -> None:
            exchange = _exchange(method, metadata, Call(context).request_id)
            exchange.status, exchange.outcome = refusal.status, refusal.code
            self.metrics.auth_failures.inc()
            self.pipeline.account(exchange)
            await end_with(context, _of(failure_of(refusal)), ((HEADER_REQUEST_ID, exchange.request_id),))

        # Of this kind, for it waits for no message.
        return grpc.stream_stream_rpc_method_handler(end)


class GrpcApi:
    """Answers the calls that the Door let in."""

    def __init__(self, pipeline: Pipeline, models: Callable[[Principal], Object], settings: Settings) -> None:
        self._pipeline = pipeline
        self._models = models
        self._max_bytes = settings.max_body_bytes

    async def answer(self, method: Method, request: Any, call: Call) -> None:
        """Send the answer to one call. Raises ryzanstein.v1's Failure."""
        exchange = _exchange(method.full_name, call.metadata, call.request_id)
        try:
            if method is LIST_MODELS:
                await call.send(method.answer(self._models(_principal.get())))
                exchange.status = 200
            else:
                await self._generate(method, request, call, exchange)
        except Refused as refused:
            exchange.status, exchange.outcome = refused.refusal.status, refused.refusal.code
            raise _of(failure_of(refused.refusal)) from None
        except asyncio.CancelledError:
            exchange.status, exchange.outcome = CLIENT_CLOSED, "client_closed"
            raise
        finally:
            self._pipeline.account(exchange)

    async def _generate(self, method: Method, request: Any, call: Call, exchange: Exchange) -> None:
        body = _json(method.body(request))
        if len(body) > self._max_bytes:
            raise Refused(BODY_TOO_LARGE)
        outlet = CallOutlet(exchange, method, call)
        generation = read_generation(method.path, body, _principal.get())
        await self._pipeline.run(generation, exchange, outlet)
        if outlet.failure is not None:
            raise _of(outlet.failure)


class CallOutlet(MessageOutlet):
    """Chunks of JSON into messages of the method."""

    def __init__(self, exchange: Exchange, method: Method, call: Call) -> None:
        super().__init__(exchange)
        self._method = method
        self._call = call

    async def piece(self, data: bytes) -> None:
        """Send one message. Raises ryzanstein.v1's Failure where a replica speaks another dialect."""
        try:
            message = self._method.answer(_DECODER.decode(data))
        except (LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError):
            raise _of(failure_of(UPSTREAM_FAILED)) from None
        await self._call.send(message)


def _json(body: Object) -> bytes:
    for name, value in body.items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no word for it
            raise invalid_value(name, f"'{name}' must be a finite number.")
    return msgspec.json.encode(body)


def _exchange(method: str, metadata: list[Header], request_id: str) -> Exchange:
    headers = [(name, value) for name, value in metadata if name != b"content-type"]
    return Exchange(PROTOCOL, method, [*headers, (b"content-type", b"application/json")], request_id)


def _headers(metadata: Any) -> list[Header]:
    return [
        (str(key).encode(), value if isinstance(value, bytes) else str(value).encode("latin-1", "replace"))
        for key, value in metadata or ()
    ]


def _of(failure: Failure) -> CallFailure:
    if failure.status == 0:
        return failure_of_event(failure.error)
    metadata: Metadata = (("retry-after", failure.retry_after.decode("latin-1")),) if failure.retry_after else ()
    return call_failure_of(failure.status, failure.error, metadata)
