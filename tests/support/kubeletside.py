"""Stands before an API server that has no kubelets and answers what it would ask one for: logs, pages, forwarded ports.

Everything else goes through to the API server behind it, watches included. Pages come from real HTTP servers on
loopback. Plain HTTP towards the client.
"""

import asyncio
import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

Manifest = dict[str, Any]
Pod = tuple[str, str]
"""Namespace and name."""
NANOS = 1_000_000_000
WAIT_SECONDS = 30.0
_POD = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<name>[^/:]+)(?::\d+)?/(?P<part>[a-z]+)(?P<tail>/.*)?"
)


@dataclass
class Run:
    """One run of a container: its lines with the moment (nanoseconds) that the kubelet took each, and its end."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    ended: bool = False


class KubeletSide:
    """Start with `kubelet_side()`; use from any thread.

    pages: the loopback port behind a pod's port. proxy_blocked: what the API server sends to pods is dropped, as by a
    network policy. forbidden: parts (proxy, log, portforward) that the user may not use. asked: how often each part was
    asked for. evict: what answers an eviction, by pod; None passes it on.
    """

    def __init__(self, upstream: str, ca: Path | None, rights: bool) -> None:
        self.pages: dict[Pod, int] = {}
        self.proxy_blocked = False
        self.forbidden: set[str] = set()
        self.asked: dict[str, int] = {}
        self.evict: Callable[[Pod], tuple[int, str]] | None = None
        self.url = ""
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca else False
        self._runs: dict[tuple[Pod, str], list[Run]] = {}
        self._broken, self._rights = 0, rights
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubelet-side", daemon=True)

    # --- for the test ----------------------------------------------------------------------------------

    def log(self, pod: Pod, text: str, *, nanos: int | None = None, container: str = "worker") -> None:
        """One more line of the present run, taken now or at `nanos`."""
        runs = self._runs.setdefault((pod, container), [Run()])
        if nanos is None:  # of two lines the later one is younger, however fast and whatever the clock does
            nanos = max([time.time_ns(), *(before + 1 for before, _ in runs[-1].lines)])
        runs[-1].lines.append((nanos, text))

    def restart(self, pod: Pod, *, container: str = "worker") -> None:
        """The present run ends and the next begins."""
        runs = self._runs.setdefault((pod, container), [Run()])
        runs[-1].ended = True
        runs.append(Run())

    def break_streams(self) -> None:
        """Every log that is followed breaks off in the middle, as when an API server goes."""
        self._broken += 1

    def kubeconfig(self, path: Path, token: str, namespace: str = "") -> Path:
        context = {"cluster": "side", "user": "side"} | ({"namespace": namespace} if namespace else {})
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "side", "cluster": {"server": self.url}}],
            "users": [{"name": "side", "user": {"token": token}}],
            "contexts": [{"name": "side", "context": context}],
            "current-context": "side",
        }
        path.write_text(json.dumps(config))
        return path

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._wait(self._start())

    def stop(self) -> None:
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )  # fmt: skip
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # --- answers -----------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        found = _POD.fullmatch(request.path)
        part = found["part"] if found else ""
        parts: dict[str, Callable[[web.Request, Pod, str], Awaitable[web.StreamResponse]]] = {
            "proxy": self._proxy,
            "portforward": self._forward,
            "log": self._log,
        }
        if part == "eviction" and self.evict and found:
            code, message = self.evict((found["namespace"], found["name"]))
            return _status(code, message)
        if part not in parts or found is None:
            return await self._pass_on(request)
        self.asked[part] = self.asked.get(part, 0) + 1
        if part in self.forbidden or (self._rights and not await self._may(request, found["namespace"], part)):
            return _status(403, f'pods "{found["name"]}" is forbidden: cannot get resource "pods/{part}"')
        return await parts[part](request, (found["namespace"], found["name"]), found["tail"] or "/")

    async def _may(self, request: web.Request, namespace: str, part: str) -> bool:
        """What the API server itself says of the user's right to it."""
        verbs = ("get", "create") if part == "portforward" else ("get",)
        for verb in verbs:
            asked = {"namespace": namespace, "verb": verb, "resource": "pods", "subresource": part}
            call = self._session.post(
                f"{self._upstream}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                json={"spec": {"resourceAttributes": asked}},
                headers={"Authorization": request.headers.get("Authorization", ""), "Accept-Encoding": "identity"},
            )
            async with call as answer:
                if not (await answer.json())["status"]["allowed"]:
                    return False
        return True

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in ("host", "content-length")
        }
        call = self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=await request.read() or None
        )
        async with call as answer:
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            kept |= {key: answer.headers[key] for key in ("Retry-After",) if key in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response

    async def _proxy(self, request: web.Request, pod: Pod, tail: str) -> web.StreamResponse:
        if self.proxy_blocked:
            await asyncio.sleep(30)
        port = self.pages.get(pod)
        if port is None:
            return _status(503, "error trying to reach service: dial tcp: connect: connection refused")
        async with self._session.get(f"http://127.0.0.1:{port}{tail}") as page:
            return web.Response(status=page.status, body=await page.read(), content_type=page.content_type)

    async def _forward(self, request: web.Request, pod: Pod, _: str) -> web.StreamResponse:
        """One port, as a kubelet's WebSocket port forwarding: channel 0 is data, 1 errors, each led by the port."""
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        asked = int(request.query["ports"]).to_bytes(2, "little")
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + asked)
        port = self.pages.get(pod)
        if port is None:
            await socket.send_bytes(b"\x01an error occurred forwarding: connection refused")
            await socket.close()
            return socket
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async for message in socket:
                writer.write(message.data[1:])
                while data := await reader.read(65536):
                    await socket.send_bytes(b"\x00" + data)
                await socket.close()
        finally:
            writer.close()
        return socket

    async def _log(self, request: web.Request, pod: Pod, _: str) -> web.StreamResponse:
        query = request.query
        runs = self._runs.get((pod, query.get("container", "worker")), [])
        previous = query.get("previous") == "true"
        if not runs or (previous and len(runs) < 2):
            return _status(400, "previous terminated container not found" if previous else "waiting to start")
        run = runs[-2] if previous else runs[-1]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        sent, broken = 0, self._broken
        with contextlib.suppress(ConnectionError):
            for moment, text in _reached(run.lines, query):
                await response.write(_line(moment, text))
            sent = len(run.lines)
            while query.get("follow") == "true" and not (run.ended and sent == len(run.lines)):
                for moment, text in run.lines[sent:]:
                    await response.write(_line(moment, text))
                    sent += 1
                if broken != self._broken:
                    assert request.transport is not None
                    request.transport.abort()
                    break
                await asyncio.sleep(0.02)
        return response


def _reached(lines: list[tuple[int, str]], query: Any) -> list[tuple[int, str]]:
    since = 0
    if "sinceTime" in query:
        since = int(datetime.fromisoformat(query["sinceTime"]).timestamp()) * NANOS
    if "sinceSeconds" in query:
        since = int((datetime.now(UTC).timestamp() - int(query["sinceSeconds"])) * NANOS)
    found = [line for line in lines if line[0] >= since]
    tail = int(query.get("tailLines", len(found)))
    return found[len(found) - min(tail, len(found)) :]


def _line(moment: int, text: str) -> bytes:
    stamp = datetime.fromtimestamp(moment // NANOS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{moment % NANOS:09d}Z {text}\n".encode()


def _status(code: int, message: str) -> web.Response:
    kind = {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}
    return web.json_response(kind, status=code)


@contextlib.contextmanager
def kubelet_side(upstream: str, ca: Path | None = None, *, rights: bool = False) -> Iterator[KubeletSide]:
    """A started KubeletSide before the API server at `upstream`, ended with the block. With `rights` it answers only
    what that server allows to who asks."""
    side = KubeletSide(upstream, ca, rights)
    side.start()
    try:
        yield side
    finally:
        side.stop()
