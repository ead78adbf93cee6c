"""The outermost ASGI layer: request ids, the count of requests in flight, and the refusal of new ones while draining.

Pure ASGI, for a framework's middleware would stand between a stream and the news that its client has left.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ryzanstein_worker.contract import HEADER_REQUEST_ID
from ryzanstein_worker.server.errors import ApiError, not_started
from ryzanstein_worker.telemetry.logs import bound

_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


class Gate:
    """Lets requests in and counts them until their last byte is sent. `on_refusal` is told of those it keeps out."""

    def __init__(self, app: ASGIApp, on_refusal: Callable[[ApiError], None] = lambda error: None) -> None:
        self._app = app
        self._on_refusal = on_refusal
        self._closed = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """From now on refuse requests that generate; what runs goes on."""
        self._closed = True

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def wait_idle(self) -> None:
        """Return once no request is in flight."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(HEADER_REQUEST_ID))
        scope.setdefault("state", {}).update(arrival=time.monotonic(), request_id=request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER_REQUEST_ID] = request_id
            await send(message)

        if scope["method"] != "POST":
            await self._app(scope, receive, send_with_id)
            return
        try:
            with bound(request_id=request_id), self.admitted():
                await self._app(scope, receive, send_with_id)
        except ApiError as refused:
            self._on_refusal(refused)
            await error_response(refused)(scope, receive, send_with_id)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request that generates, whatever protocol it came by. Raises ApiError once the gate is closed."""
        if self._closed:
            raise not_started("draining", "This worker is shutting down; try another.")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()


def error_response(error: ApiError) -> Response:
    """An ApiError as an HTTP answer."""
    return Response(
        error.body.model_dump_json(), status_code=error.status, media_type="application/json", headers=error.headers
    )


def _request_id(given: str | None) -> str:
    """The client's id if it is harmless in a log line and a header, else one of our own."""
    if given and len(given) <= 128 and _ID_CHARS.issuperset(given):
        return given
    return uuid.uuid4().hex
