"""An asyncio client of the test's API server, as ADMIN: one call, or a collection that is followed for ever."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import aiohttp

from apiserver import ADMIN, ApiServer

Manifest = dict[str, Any]
MERGE = "application/merge-patch+json"
CALLS = 32
RELIST_SECONDS = 0.2
CONNECT_SECONDS = 60.0
"""With TLS, which a starved API server is slow to answer; one that is away refuses at once."""


class AdminApi:
    """An async context manager. Use within one event loop."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._calls = asyncio.Semaphore(CALLS)
        tls = ssl.create_default_context(cafile=str(server.directory / "ca.crt"))
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {ADMIN}-token"},
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await asyncio.sleep(0.1)  # aiohttp leaves the end of a TLS connection to the event loop

    async def call(self, method: str, path: str, body: Manifest | None = None, kind: str = "") -> Manifest:
        """The decoded answer whatever its status, so also a v1 Status. Raises aiohttp.ClientError, OSError."""
        headers = {"Content-Type": kind or "application/json"}
        request = self._session.request(method, self._server.url + path, json=body, headers=headers)
        async with self._calls, request as answer:
            decoded: Manifest = await answer.json()
            return decoded

    async def follow(
        self, path: str, saw: Callable[[str, Manifest], None], listed: Callable[[list[Manifest]], None]
    ) -> None:
        """List and watch `path` until cancelled, through restarts of the API server. Each list goes to `listed`,
        each event's type and object to `saw`."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, KeyError, ValueError):
                answer = await self.call("GET", path)
                listed(answer["items"])
                async for event in self._watch(path, answer["metadata"]["resourceVersion"]):
                    saw(event["type"], event["object"])
            await asyncio.sleep(RELIST_SECONDS)

    async def _watch(self, path: str, version: str) -> AsyncIterator[Manifest]:
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1800"}
        async with self._session.get(self._server.url + path, params=query) as answer:
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    yield event
