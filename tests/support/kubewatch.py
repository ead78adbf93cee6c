"""A small Kubernetes API server of two collections: ConfigMaps and EndpointSlices, list and watch over real HTTP.

Speaks resource versions, bookmarks, selectors and expiry as the real one does, and breaks on demand.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Manifest = dict[str, Any]

CONFIG_MAPS = "configmaps"
ENDPOINT_SLICES = "endpointslices"


class KubeWatch:
    """The server. Objects go in by `put` and `delete`; faults by the other methods."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and query of every request, oldest first."""
        self.broken_status = 0
        """Not 0: answer every request with this status."""
        self.silent = False
        """Answer watches with headers and nothing else, not even an end."""
        self._objects: dict[tuple[str, str, str], Manifest] = {}
        self._history: list[tuple[int, str, str, Manifest]] = []
        self._oldest = 0
        self._version = 1
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    # --- objects -----------------------------------------------------------------------------------
    async def put(self, kind: str, manifest: Manifest) -> None:
        """Create or replace an object."""
        metadata = manifest["metadata"]
        key = (kind, metadata["namespace"], metadata["name"])
        await self._record(kind, "MODIFIED" if key in self._objects else "ADDED", key, manifest)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object."""
        key = (kind, namespace, name)
        await self._record(kind, "DELETED", key, self._objects[key])

    async def _record(self, kind: str, event: str, key: tuple[str, str, str], manifest: Manifest) -> None:
        self._version += 1
        stamped = manifest | {"metadata": manifest["metadata"] | {"resourceVersion": str(self._version)}}
        if event == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = stamped
        self._history.append((self._version, kind, event, stamped))
        async with self._changed:
            self._changed.notify_all()

    # --- faults ------------------------------------------------------------------------------------
    def forget_history(self) -> None:
        """As after etcd's compaction: whoever comes with an older version gets 410."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    def say(self, line: bytes) -> None:
        """Send a raw line on every open watch."""
        for queue in self._watchers:
            queue.put_nowait(line)

    def hang_up(self) -> None:
        """End every open watch."""
        for queue in self._watchers:
            queue.put_nowait(None)

    @property
    def lists(self) -> int:
        """How often a collection was listed."""
        return sum("watch" not in query for _, query in self.requests)

    @property
    def watches(self) -> int:
        """How often a collection was watched."""
        return len(self.requests) - self.lists

    @property
    def watching(self) -> int:
        """Open watches."""
        return len(self._watchers)

    # --- server ------------------------------------------------------------------------------------
    async def start(self, port: int = 0) -> None:
        """Listen on loopback."""
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/{namespace}/{kind}", self._handle)
        app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/{namespace}/{kind}", self._handle)
        app.router.add_get("/apis/discovery.k8s.io/v1/{kind}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening and drop every connection, as a server that is gone."""
        self.silent = False
        self.hang_up()
        assert self._runner is not None
        await self._runner.cleanup()

    def write_kubeconfig(self, path: Path) -> None:
        """A kubeconfig that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "none"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.path, query))
        if self.broken_status:
            return web.json_response({"kind": "Status", "code": self.broken_status}, status=self.broken_status)
        if query.get("watch") == "true":
            return await self._watch(request, query)
        items = [one for key, one in self._objects.items() if self._selected(request, key[0], one)]
        return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watchers.add(queue)
        feed = asyncio.create_task(self._feed(request, query, queue))
        try:
            async with asyncio.timeout(float(query["timeoutSeconds"]) if not self.silent else 60):
                while (line := await queue.get()) is not None:
                    await response.write(line + b"\n")
        except TimeoutError:
            pass
        finally:
            feed.cancel()
            self._watchers.discard(queue)
        return response

    async def _feed(self, request: web.Request, query: dict[str, str], queue: asyncio.Queue[bytes | None]) -> None:
        if self.silent:
            return
        seen = int(query["resourceVersion"])
        if seen < self._oldest:
            queue.put_nowait(_event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
            queue.put_nowait(None)
            return
        async with self._changed:
            while True:
                for version, kind, event, manifest in self._history:
                    if version > seen and self._selected(request, kind, manifest):
                        queue.put_nowait(_event(event, manifest))
                seen = max(seen, self._version)
                bookmark = {"metadata": {"resourceVersion": str(seen)}}
                queue.put_nowait(_event("BOOKMARK", bookmark))
                await self._changed.wait()

    @staticmethod
    def _selected(request: web.Request, kind: str, manifest: Manifest) -> bool:
        metadata = manifest["metadata"]
        label = request.query.get("labelSelector")
        _, _, name = request.query.get("fieldSelector", "").partition("metadata.name=")
        return (
            kind == request.match_info["kind"]
            and request.match_info.get("namespace", metadata["namespace"]) == metadata["namespace"]
            and (not label or label in metadata.get("labels", {}))
            and (not name or name == metadata["name"])
        )


def _event(kind: str, manifest: Manifest) -> bytes:
    return json.dumps({"type": kind, "object": manifest}).encode()


@asynccontextmanager
async def kube_watch() -> AsyncIterator[KubeWatch]:
    """A running server; everything it opened is closed afterwards."""
    server = KubeWatch()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
