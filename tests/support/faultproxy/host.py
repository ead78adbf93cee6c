"""The thread and event loop in which all proxies run, and their way to the API server."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import aiohttp

from apiserver import ApiServer
from faultproxy.proxy import FaultProxy

T = TypeVar("T")
WAIT_SECONDS = 60.0
CONNECT_SECONDS = 60.0
"""With TLS: a busy API server is no fault that a case asked for. One that is away refuses at once."""


class ProxyHost:
    """The thread and event loop in which proxies run. Use `running`."""

    def __init__(self, server: ApiServer) -> None:
        self.upstream = server.url
        keys = server.directory
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_tls.load_cert_chain(keys / "server.crt", keys / "server.key")
        self._client_tls = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault-proxies", daemon=True)
        self._proxies: list[FaultProxy] = []

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def proxy(self) -> FaultProxy:
        """Another proxy, which listens now."""
        made = FaultProxy(self)
        self.call(made.start())
        self._proxies.append(made)
        return made

    @contextlib.contextmanager
    def running(self) -> Iterator["ProxyHost"]:
        self._thread.start()
        self.call(self._open())
        try:
            yield self
        finally:
            self.call(self._close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(WAIT_SECONDS)
            self.loop.close()

    async def _open(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._client_tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout)

    async def _close(self) -> None:
        await asyncio.gather(*(proxy.stop() for proxy in self._proxies))
        await self.session.close()
        await asyncio.sleep(0.2)  # aiohttp leaves the end of a TLS connection to the event loop
