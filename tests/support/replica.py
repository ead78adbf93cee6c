"""A replica as the gateway sees it: a real HTTP server that answers completions, slowly when told to.

Every replica of a test listens on its own loopback address and the same port, as pods do.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from ryzanstein_worker.contract import CHAT_COMPLETIONS, COMPLETIONS, HEADER_NOT_STARTED, HEALTH_STATUS

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Replica:
    """Answers with `tokens` pieces. `step`: an event stream waits for one release before each piece."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.tokens = 3
        self.step: asyncio.Semaphore | None = None
        self.not_started = ""
        """Not empty: answer 503 with this word in HEADER_NOT_STARTED."""
        self.answer: Answer | None = None
        """Set: answers in place of the usual."""
        self.received: list[tuple[dict[str, str], bytes]] = []
        """Headers and body of every request."""
        self.running = 0
        self.left = asyncio.Event()
        """Set when a request was broken off from the other side."""
        self.health: dict[str, Any] = {"phase": "serving", "ready": True, "epoch": "a", "beat_age": 0.0}
        """What its health page says, once it has one."""
        self.mute = False
        """Whether the page is never answered."""
        self.checks = 0
        """How often the page was asked for."""
        self._runner: web.AppRunner | None = None
        self._pages: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_post(COMPLETIONS, self._handle)
        app.router.add_post(CHAT_COMPLETIONS, self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()

    async def show_health(self, port: int) -> None:
        """From now on there is a health page."""
        app = web.Application()
        app.router.add_get(HEALTH_STATUS, self._page)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.host, port).start()
        self._pages.append(runner)

    async def hide_health(self) -> None:
        """From now on nobody listens there."""
        while self._pages:
            await self._pages.pop().cleanup()

    async def _page(self, request: web.Request) -> web.StreamResponse:
        self.checks += 1
        if self.mute:
            await asyncio.Event().wait()
        return web.json_response(self.health)

    async def stop(self) -> None:
        """Stop listening and break off what runs, as a killed process does."""
        await self.hide_health()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append((dict(request.headers), body))
        if self.not_started:
            return web.json_response({"error": {}}, status=503, headers={HEADER_NOT_STARTED: self.not_started})
        self.running += 1
        try:
            return await (self.answer or self._complete)(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left.set()
            raise
        finally:
            self.running -= 1

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = json.loads(await request.read())
        if not asked.get("stream"):
            if self.step:
                await self.step.acquire()
            return web.json_response(self.unary(asked["model"]))
        response = await event_stream(request)
        for index in range(self.tokens):
            if self.step:
                await self.step.acquire()
            await response.write(self.piece(asked["model"], index))
        await response.write(b"data: [DONE]\n\n")
        return response

    def piece(self, model: str, index: int) -> bytes:
        """One chunk of a chat completion, as an event."""
        delta = {"role": "assistant", "content": f"{self.host}-{index} "}
        choice = {"index": 0, "delta": delta, "finish_reason": None if index < self.tokens - 1 else "stop"}
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def unary(self, model: str) -> dict[str, Any]:
        """A whole chat completion."""
        message = {"role": "assistant", "content": self.host}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}


async def event_stream(request: web.Request) -> web.StreamResponse:
    """A begun response of server-sent events."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


@asynccontextmanager
async def replica(host: str, port: int) -> AsyncIterator[Replica]:
    """A running replica."""
    one = Replica(host, port)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()
