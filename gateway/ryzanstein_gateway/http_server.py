"""The HTTP server: uvicorn as the gateway wants it.

Knows uvicorn and sockets; neither what is served nor when to begin and end.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn

from ryzanstein_gateway.app import App
from ryzanstein_gateway.protocol import bounded_protocol
from ryzanstein_gateway.settings import Settings
from ryzanstein_gateway.sockets import socket_options
from ryzanstein_gateway.tls import Certificate

_BACKLOG: Final = 2048


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop accepting is decided here. And with a bound on a handshake:
    uvicorn leaves asyncio's, a minute, in which nothing counts a connection yet."""

    def __init__(self, config: uvicorn.Config, handshake_seconds: float) -> None:
        super().__init__(config)
        self._handshake_seconds = handshake_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets."""
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        make = partial(protocol, config=self.config, server_state=self.server_state, app_state={})
        tls = self.config.ssl
        limit = self._handshake_seconds if tls else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(make, sock=one, ssl=tls, ssl_handshake_timeout=limit, backlog=_BACKLOG)
            for one in sockets or ()
        ]
        self.started = True


def http_server(app: App, settings: Settings, certificate: Certificate | None) -> HttpServer:
    """A server that can be given its sockets."""
    config = uvicorn.Config(
        app,
        http=bounded_protocol(settings),
        **socket_options(settings),
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        log_level="warning",  # at info it writes paths with their queries
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(settings.keep_alive_seconds),
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    config.load()
    config.ssl = certificate.context if certificate else None
    return HttpServer(config, settings.head_timeout_seconds)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 too where the machine can. Raises OSError where the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
