"""The proxy itself: takes a call, looks for the fault that it meets, forwards it, answers, and keeps the log.

Many proxies share the one event loop of a ProxyHost, each with a port of its own. All public methods may be called from
any thread.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp import web

from faultproxy.calls import Call, Kind, kind_of
from faultproxy.faults import Abort, Answer, Freeze, Kill, Rule
from faultproxy.lines import Lines
from faultproxy.past import Past, Place, place_of
from faultproxy.streams import Cut, Stream

T = TypeVar("T")
_PASSED_ON = ("Content-Type", "Retry-After", "Warning")


class Host(Protocol):
    """Where a proxy runs, and how it reaches the API server."""

    upstream: str
    server_tls: ssl.SSLContext
    loop: asyncio.AbstractEventLoop
    session: aiohttp.ClientSession

    def call(self, work: Coroutine[Any, Any, T]) -> T: ...


class FaultProxy:
    """One operator's way to the API server.

    victim: the PID that a Kill or a Freeze is for. killed: called, in the proxy's thread, once it has been sent.
    rules: the first that a call meets decides. lines: what happens to each line of every watch.
    """

    def __init__(self, host: Host) -> None:
        self.victim = 0
        self.killed: Callable[[], None] = lambda: None
        self.rules: list[Rule] = []
        self.lines: Lines | None = None
        self.log: list[Call] = []
        self.url = ""
        self._host = host
        self._count_events = False
        self._writes = 0
        self._streams: set[Stream] = set()
        self._past: Past | None = None
        self._places: dict[Place, str] = {}  # every collection that was listed, with the token it was listed with
        self._runner: web.ServerRunner | None = None

    # --- what tests say ------------------------------------------------------------------------------

    def arm(self, *rules: Rule, lines: Lines | None = None, count_events: bool = False) -> None:
        """Number the writes from 1 again, and do this to what comes."""
        self._writes, self._count_events = 0, count_events
        self.log = []
        self.rules, self.lines = list(rules), lines

    def disarm(self) -> None:
        """Pass everything on, from now."""
        self.rules, self.lines = [], None

    @property
    def writes(self) -> list[Call]:
        """The numbered writes, in the order they came."""
        return [call for call in list(self.log) if call.write]

    @property
    def mutations(self) -> list[Call]:
        """Everything that would change something, but for the Lease."""
        return [call for call in list(self.log) if call.kind in (Kind.WRITE, Kind.EVENT)]

    def swallow_watches(self) -> None:
        """The connections of all open watches stand, and nothing comes through them any more."""
        self._host.call(self._each(Stream.swallow))

    def end_watches(self) -> None:
        """All open watches end with 410."""
        self._host.call(self._each(Stream.end_gone))

    def hang_up(self) -> None:
        """The connections of all open watches are reset."""
        self._host.call(self._each(Stream.hang_up))

    def cut_watches(self, how: Cut) -> None:
        """The next line of every open watch is cut in half."""
        self._host.call(self._each(lambda stream: stream.cut_next(how)))

    def record(self) -> Past:
        """All collections that were ever listed here, as they are now."""
        return self._host.call(self._record())

    def lag(self, past: Past) -> None:
        """From now on lists are those of `past`, until it is said to have caught up."""
        self._past = past

    def catch_up(self) -> None:
        """The lag is over: watches tell what has happened since."""
        if self._past is not None:
            self._host.loop.call_soon_threadsafe(self._past.caught_up.set)

    # --- serving ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._host.server_tls)
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._each(Stream.hang_up)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _each(self, act: Callable[[Stream], None]) -> None:
        for stream in list(self._streams):
            act(stream)

    async def _record(self) -> Past:
        past = Past()
        for place, token in self._places.items():
            path, selectors = place
            headers = {"Authorization": token, "Accept": "application/json"}
            async with self._host.session.get(self._host.upstream + path, params=dict(selectors), headers=headers) as a:
                past.record(place, await a.read())
        return past

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        query = dict(request.query)
        call = Call(request.method, request.path, query, kind_of(request.method, request.path, query))
        if call.kind is Kind.WRITE or (self._count_events and call.kind is Kind.EVENT):
            self._writes += 1
            call.write = self._writes
        self.log.append(call)
        try:
            return await self._meet(request, call)
        finally:
            if not call.status:
                call.note = call.note or "the caller has left"

    async def _meet(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        body = await request.read()
        fault = next((rule.fault for rule in self.rules if rule.take(call)), None)
        call.note = str(fault or "")
        if isinstance(fault, Answer):
            call.status = fault.status
            return _refusal(fault)
        if isinstance(fault, Freeze):
            return await self._freeze()
        if isinstance(fault, Kill | Abort):
            if fault.when == "after":
                await self._forward(request, body)
            return await self._break(request, kill=isinstance(fault, Kill))
        if call.kind is Kind.WATCH:
            return await self._pass_watch(request, call)
        if call.kind is Kind.LIST:
            place = place_of(call.path, call.query)
            self._places[place] = request.headers.get("Authorization", "")
            old = self._past.answer(place) if self._past else None
            if old is not None:
                call.status, call.note = 200, "an old list"
                return web.Response(body=old, content_type="application/json")
        status, headers, answer = await self._forward(request, body)
        call.status = status
        return web.Response(status=status, headers=headers, body=answer)

    async def _break(self, request: web.BaseRequest, *, kill: bool) -> web.StreamResponse:
        if kill and self.victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.victim, signal.SIGKILL)
            self.victim = 0
            self.killed()
        if request.transport is not None:
            request.transport.abort()
        await asyncio.Event().wait()
        raise AssertionError("the handler is cancelled with its connection")

    async def _freeze(self) -> web.StreamResponse:
        os.kill(self.victim, signal.SIGSTOP)
        self.killed()
        await asyncio.Event().wait()
        raise AssertionError("the handler is cancelled with its connection")

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            async with self._host.session.request(
                request.method,
                self._host.upstream + request.path_qs,
                data=body or None,
                headers=_forwarded(request),
            ) as answer:
                kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
                return answer.status, kept, await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            return 502, {}, json.dumps({"message": f"the API server is away: {error}"}).encode()

    async def _pass_watch(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        stream = Stream(lambda: self.lines)
        self._streams.add(stream)
        try:
            if self._past is not None and not self._past.caught_up.is_set():
                call.note = "silent until the lag is over"
                await response.prepare(request)
                await self._past.caught_up.wait()
            url = self._host.upstream + request.path_qs
            async with self._host.session.get(url, headers=_forwarded(request)) as upstream:
                call.status = upstream.status
                if upstream.status != 200 and not response.prepared:
                    return web.Response(status=upstream.status, body=await upstream.read())
                if not response.prepared:
                    await response.prepare(request)
                await stream.run(upstream, response, request)
        except (aiohttp.ClientError, OSError):
            pass  # either side has gone: the stream is over
        finally:
            self._streams.discard(stream)
        return response


def _forwarded(request: web.BaseRequest) -> dict[str, str]:
    names = ("Authorization", "Content-Type", "Accept", "User-Agent")
    return {name: request.headers[name] for name in names if name in request.headers}


def _refusal(fault: Answer) -> web.Response:
    message = f"the fault proxy answers {fault.status}"
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status, "message": message}
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
    return web.json_response(body, status=fault.status, headers=headers)
