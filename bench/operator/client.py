"""The API server as the benchmark sees it: calls, tables, one watch, its metrics. Knows HTTP, makes no manifest."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from apiserver import ADMIN, ApiServer

Manifest = dict[str, Any]
AT_ONCE: Final = 16
_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
_SECONDS: Final = 60.0


class Api:
    """Calls as the administrator. Every one has a deadline of a minute."""

    def __init__(self, server: ApiServer, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session

    async def call(self, method: str, path: str, body: Manifest | None = None, kind: str = "application/json") -> Any:
        """The decoded answer. Raises aiohttp.ClientResponseError for a refusal."""
        headers = {"Content-Type": kind}
        async with self._session.request(method, self._server.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            return json.loads(text) if text.startswith("{") else text

    async def column(self, path: str, column: str) -> AsyncIterator[tuple[str, str]]:
        """Name and one cell of each row that kubectl would print of a collection: those that stand, then each that
        changes. Far less to read than the objects, and no load for the server while nothing changes."""
        while True:  # a busy server ends a watch whose reader is slow
            async for table in self._tables(path):
                if definitions := table["columnDefinitions"]:
                    index = [definition["name"] for definition in definitions].index(column)
                for row in table["rows"]:
                    yield str(row["cells"][0]), str(row["cells"][index])

    async def _tables(self, path: str) -> AsyncIterator[Manifest]:
        headers, query = {"Accept": _TABLE}, {"includeObject": "None"}
        async with self._session.get(self._server.url + path, headers=headers, params=query) as answer:
            listed = await answer.json()
        yield listed
        query |= {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "3600"}
        forever = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._server.url + path, headers=headers, params=query, timeout=forever) as answer:
            async for line in answer.content:
                if (event := json.loads(line))["type"] == "ERROR":
                    return
                yield event["object"]

    async def watch(self, path: str, name: str) -> AsyncIterator[Manifest]:
        """The states of one object from now on."""
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(int(_SECONDS))}
        async with self._session.get(self._server.url + path, params=query) as answer:
            async for line in answer.content:
                yield json.loads(line)["object"]

    async def metrics(self) -> str:
        return str(await self.call("GET", "/metrics"))


@asynccontextmanager
async def connect(server: ApiServer) -> AsyncIterator[Api]:
    """Calls to `server`."""
    tls = ssl.create_default_context(cafile=str(server.directory / "ca.crt"))
    headers = {"Authorization": f"Bearer {ADMIN}-token"}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    connector = aiohttp.TCPConnector(ssl=tls, limit=2 * AT_ONCE)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        yield Api(server, session)


async def all_of(work: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Everything in `work`, a few at a time."""
    waiting = iter(work)

    async def one() -> None:
        for item in waiting:
            await item()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one())
