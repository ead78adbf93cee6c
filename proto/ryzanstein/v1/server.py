"""A gRPC server with the service, health and reflection: what gateway and worker have in common.

Knows gRPC's limits and how a call begins and ends; who answers is a Backend. Messages are read here and not by gRPC,
for gRPC calls one that cannot be read a fault of the server, and tells its client an exception's text.
"""

import asyncio
import logging
import re
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ryzanstein.v1.methods import METHODS, SERVICE, Method
from ryzanstein.v1.status import Failure, end_with, failure_of, invalid, slow_reader

REQUEST_ID: Final = "x-request-id"
_GOOD_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_IDENTITY_ONLY: Final = 1
"""The set of compressions that are taken: of bits the first, identity. What a message weighs is then what it says."""
SEND_SECONDS: Final = 60.0
"""A client that reads nothing for so long is taken for gone."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Header = tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask of the transport. Sizes are bytes, durations seconds."""

    max_message_bytes: int
    max_metadata_bytes: int
    max_connections: int
    max_streams: int = 256
    """Calls at once over one connection."""
    idle_seconds: float = 300.0
    keepalive_seconds: float = 30.0
    """How often a silent connection is asked whether anybody is there."""
    handshake_seconds: float = 10.0

    def options(self) -> list[tuple[str, int]]:
        """As channel arguments of gRPC."""
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", self.max_streams),
            ("grpc.max_connection_idle_ms", round(self.idle_seconds * 1000)),
            ("grpc.keepalive_time_ms", round(self.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 4),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_seconds * 1000)),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
            ("grpc.so_reuseport", 1),
        ]


class Call:
    """One call: what it brought along, and the way its answers go out."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._begun = False
        self.metadata: list[Header] = [
            (key.encode(), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
            for key, value in context.invocation_metadata() or ()
        ]
        given = self.header(REQUEST_ID.encode()).decode("latin-1")
        self.request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex

    def header(self, name: bytes) -> bytes:
        """The first value of a name, empty where there is none."""
        return next((value for key, value in self.metadata if key == name), b"")

    async def send(self, message: Message) -> None:
        """One message. Waits while the client reads slowly; raises Failure when it does not read at all.

        The headers wait for the first one, so that of a call that fails before it is known that it has not begun: a
        client may try it again.
        """
        if not self._begun:
            self._begun = True
            await self._context.send_initial_metadata(((REQUEST_ID, self.request_id),))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._context.write(message.SerializeToString())
        except TimeoutError:
            raise slow_reader() from None


class Backend(Protocol):
    """Who answers."""

    async def answer(self, method: Method, request: Any, call: Call) -> None:
        """Send what the method is to send. Raises Failure."""
        ...


class Server:
    """Serves from `start` on. Make it where the event loop runs."""

    def __init__(
        self, backend: Backend, limits: Limits, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    ) -> None:
        self._server = grpc.aio.server(interceptors=list(interceptors), options=limits.options())
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: grpc.unary_stream_rpc_method_handler(_handler(method, backend)) for method in METHODS
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on `host:port` and serve; the port. Raises RuntimeError where the port cannot be had."""
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, _SERVING)
        return port

    async def leave(self) -> None:
        """Say that no new calls should come; they are taken nevertheless."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float | None) -> None:
        """Take no more calls, let the running ones end, cut those that have not when time is up."""
        await self._server.stop(grace_seconds)


def _handler(method: Method, backend: Backend) -> Any:
    # On the wire a single answer is a stream of one, so every method has the same kind of handler.
    async def handle(raw: bytes, context: Context) -> None:
        call = Call(context)
        try:
            await backend.answer(method, _read(method, raw), call)
            return
        except Failure as error:
            failure = error
        except Exception:
            if context.done() or context.cancelled():
                return  # the client left while a message was on its way to it
            _log.exception("call %s failed", call.request_id)
            failure = failure_of(500, {"message": "The server failed to handle this request.", "type": "server_error"})
        await end_with(context, failure, ((REQUEST_ID, call.request_id),))

    return handle


def _read(method: Method, raw: bytes) -> Message:
    try:
        return method.request.FromString(raw)
    except DecodeError:
        raise invalid("The message cannot be read: it is of another type, or a string is not UTF-8.") from None


def reserve(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen: the port (any free one for 0) is ours, and `start` may share it.

    Raises OSError where it is in use. gRPC binds anew when it starts, and a socket that may be shared from the
    beginning would not notice that another program listens there.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    reserved = socket.socket(family, kind, protocol)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        reserved.close()
        raise
    return reserved


def address_of(host: str, port: int) -> str:
    """An address as gRPC reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
