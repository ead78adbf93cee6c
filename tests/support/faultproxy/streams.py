"""One watch that passes through: lines in from the API server, lines out to the operator, with what is done to it."""

import asyncio
import json
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import ClientResponse, web

from faultproxy.lines import Lines

GONE: Final = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version: 1 (2)",
        "reason": "Expired",
        "code": 410,
    },
}
Cut = Literal["", "abort", "end"]
"""What happens to the next line: its first half comes, and the connection is reset, or the answer ends well-formed."""


class Stream:
    """Runs until either side ends it. The methods act on it from the proxy's event loop."""

    def __init__(self, lines: Callable[[], Lines | None]) -> None:
        self._lines = lines
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._silent = False
        self._abort = False
        self._cut: Cut = ""

    def swallow(self) -> None:
        """Nothing comes any more, not even an end."""
        self._silent = True

    def end_gone(self) -> None:
        """The API server has forgotten the version from which this watch went on."""
        self._queue.put_nowait(json.dumps(GONE).encode() + b"\n")
        self._queue.put_nowait(None)

    def hang_up(self) -> None:
        """The connection is reset."""
        self._abort = True
        self._queue.put_nowait(None)

    def cut_next(self, how: Cut) -> None:
        """The next line is cut in half."""
        self._cut = how

    async def run(self, upstream: ClientResponse, response: web.StreamResponse, request: web.BaseRequest) -> None:
        """Pass lines on until an end. `response` is prepared."""
        reading = asyncio.create_task(self._read(upstream))
        try:
            while (line := await self._queue.get()) is not None:
                if self._silent:
                    continue
                if self._cut and not line.startswith(b'{"type":"BOOKMARK"'):
                    await response.write(line[: len(line) // 2])
                    self._abort = self._cut == "abort"
                    break
                await response.write(line)
            if self._silent:
                await asyncio.Event().wait()
            if self._abort and request.transport is not None:
                await asyncio.sleep(0.05)  # what was written before is on its way
                request.transport.abort()
        finally:
            reading.cancel()

    async def _read(self, upstream: ClientResponse) -> None:
        loop, buffer = asyncio.get_running_loop(), b""
        async for chunk in upstream.content.iter_any():
            *whole, buffer = (buffer + chunk).split(b"\n")
            for line in whole:
                fault = self._lines()
                for delay, sent in fault.take(line + b"\n") if fault else ((0.0, line + b"\n"),):
                    if delay:
                        loop.call_later(delay, self._queue.put_nowait, sent)
                    else:
                        self._queue.put_nowait(sent)
        self._queue.put_nowait(None)
