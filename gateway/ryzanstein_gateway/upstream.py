"""HTTP/1.1 to the replicas: one POST, its reply in pieces, and whether a failure came before anything was sent.

Knows connections and bytes; knows nothing of models, events or what may be sent again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from ryzanstein_gateway.exchange import Header

IDLE_SECONDS: Final = 3.0
"""Below the 5 s after which servers commonly close an idle connection, so that none is used while it closes."""


class UpstreamError(Exception):
    """A replica could not be spoken with."""


class ConnectFailed(UpstreamError):  # noqa: N818 - says what happened
    """No connection came about: the request has certainly not been started."""


class Broken(UpstreamError):  # noqa: N818 - says what happened
    """The connection was lost after the request had been sent, in part at least: it may have been started."""


class Response:
    """A reply whose head has come. `headers` have their names in lower case."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: list[Header] = [(name.lower(), value) for name, value in response.raw_headers]

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name, which is in lower case."""
        return next((value for known, value in self.headers if known == name), None)

    async def read(self) -> bytes:
        """The next piece of the body as soon as there is one; empty at the end. Raises Broken."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Broken from error


class Pool:
    """Connections to replicas, kept alive between requests. No proxy, no cookies, no redirects, bodies as they are."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            # An identity: what a replica compresses could not be passed on piece by piece.
            headers={"accept-encoding": "identity"},
        )

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def post(
        self, host: str, port: int, path: str, headers: list[Header], body: bytes, *, connect_timeout: float
    ) -> AsyncIterator[Response]:
        """Send a request; the reply, once its head has come. Raises ConnectFailed or Broken.

        `host` is an IP address as it stands in a URL. Leaving the context before the reply's end closes the
        connection, and so tells the replica that nobody waits any more.
        """
        url = URL(f"http://{host}:{port}{path}", encoded=True)
        try:
            response = await self._session.post(
                url,
                data=body,
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ConnectFailed from error
        except (aiohttp.ClientError, OSError) as error:
            raise Broken from error
        async with response:
            yield Response(response)
