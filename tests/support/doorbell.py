"""Operators' ears: real HTTP servers on loopback that write down what gateways say, and when."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from ryzanstein_gateway.operators import Found, Operators
from ryzanstein_worker.contract import DEMAND_PATH, OVERVIEW_PATH, VIEWS_PATH

KEY = "a-shared-key"


@dataclass
class Heard:
    """One view as it came, and when: `at` is of the monotonic clock."""

    at: float
    size: int
    view: dict[str, Any]

    def service(self, name: str) -> dict[str, Any]:
        """One service of it; empty where it is not named."""
        return next((one for one in self.view["services"] if one["service"] == name), {})


@dataclass
class Ear:
    """One operator. `status` is what it answers; `hold`: it takes the message and answers when this is set."""

    port: int
    host: str = "127.0.0.1"
    status: int = 200
    hold: asyncio.Event | None = None
    heard: list[Heard] = field(default_factory=list)
    overview: bytes = b'{"services": []}'
    """What it answers to who asks for the overview."""
    asked: int = 0
    """How often that was."""
    called: int = 0
    """How often it was told that requests wait."""
    refused: int = 0
    """Messages without the key."""
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> URL:
        return URL.build(scheme="http", host=self.host, port=self.port)

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post(VIEWS_PATH, self._view)
        app.router.add_post(DEMAND_PATH, self._other)
        app.router.add_get(OVERVIEW_PATH, self._overview)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, what: str, condition: Any, seconds: float = 20.0) -> Heard:
        """The first view for which the condition holds, of those that come from now on and the last one."""
        first, deadline = max(0, len(self.heard) - 1), time.monotonic() + seconds
        while True:
            for one in self.heard[first:]:
                if condition(one):
                    return one
            assert time.monotonic() < deadline, f"not heard within {seconds} s: {what}; last: {self.heard[-1:]}"
            await asyncio.sleep(0.02)

    async def _view(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            self.refused += 1
            return web.Response(status=401)
        body = await request.read()
        self.heard.append(Heard(time.monotonic(), len(body), json.loads(body)))
        if self.hold is not None:
            await self.hold.wait()
        return web.json_response({}, status=self.status)

    async def _overview(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        return web.Response(body=self.overview, status=self.status, content_type="application/json")

    async def _other(self, request: web.Request) -> web.StreamResponse:
        self.called += 1
        return web.json_response({}, status=self.status)


@asynccontextmanager
async def listening(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Ear]:
    """One operator that listens."""
    ear = Ear(port, host)
    await ear.start()
    try:
        yield ear
    finally:
        if ear.hold is not None:
            ear.hold.set()
        await ear.stop()


class Several(Operators):
    """Operators as a headless Service's name would bring them, without a name server."""

    def __init__(self, *ears: Ear) -> None:
        super().__init__("", None)
        self.ears = ears

    def __bool__(self) -> bool:
        return True

    async def find(self) -> Found:
        """Where they are now."""
        return Found(tuple(ear.url for ear in self.ears), {"authorization": f"Bearer {KEY}"})
