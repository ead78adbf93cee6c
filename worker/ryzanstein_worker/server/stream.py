"""Answers over HTTP that end with their client: server-sent events, and answers in one piece.

Whoever leaves is noticed at once, while queued, in prefill or in the middle of a stream, and the work for him is
cancelled. A stream ends with `[DONE]` only when all of it was sent; otherwise with an `error` event.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ryzanstein_worker.contract import HEADER_JOURNAL, HEADER_USAGE, MARK_COMMIT, MARK_LOST_CRASH, MARK_LOST_DRAIN
from ryzanstein_worker.server import errors
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.generate import Delta
from ryzanstein_worker.server.responses import Answer
from ryzanstein_worker.server.service import Piece, Run

ResultT = TypeVar("ResultT")
SEND_TIMEOUT_SECONDS = 60.0
"""A client that reads nothing for so long is taken for gone."""
DONE = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)


async def unless_gone(receive: Receive, work: Awaitable[ResultT]) -> ResultT:
    """The result of `work`, which is cancelled as soon as the client has left.

    Raises:
        ClientDisconnect: nobody is there to be answered.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(watcher, task, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events of a run: those of one delta in one write.

    The status is sent with the first of them, so that a failure before it is a plain HTTP error, which a gateway
    may still try elsewhere. With a journal each delta's events are followed by the marker that commits them, and a
    loss that another replica can make good is told by a marker too.
    """

    media_type = "text/event-stream"

    def __init__(
        self, run: Run, pieces: AsyncGenerator[Piece, None], refuse: Callable[[ApiError], Response], *, journal: bool
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", HEADER_USAGE: str(run.prompt_tokens)}
        if journal:
            headers[HEADER_JOURNAL] = f"{run.id} {run.created} {run.seed}"
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._pieces = pieces
        self._refuse = refuse
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._produce(scope, receive, send))

    async def _produce(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        last = b""
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if piece.delta is None:  # the usage goes with the end: whoever has one has both
                        last = _events(piece.answers)
                        continue
                    body = self._encode(piece.answers, piece.delta)
                    if not body:
                        continue
                    if not started:
                        started = True
                        await self._start(send)
                    await _send(send, body)
            if not started:
                started = True
                await self._start(send)
            await _send(send, last + DONE)
        except Exception as error:
            if isinstance(error, TimeoutError):
                raise ClientDisconnect from None
            failure = as_api_error(error)
            if not started:
                await self._refuse(failure)(scope, receive, send)
                return
            await _send(send, self._farewell(failure))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _encode(self, answers: list[Answer], delta: Delta) -> bytes:
        events = _events(answers)
        return events + _marker(delta) if self._journal else events

    def _farewell(self, failure: ApiError) -> bytes:
        if self._journal and failure.lost is not None:
            return (MARK_LOST_DRAIN if failure.lost == "drain" else MARK_LOST_CRASH) + b"\n\n"
        return f"event: error\ndata: {failure.body.model_dump_json()}\n\n".encode()

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})


def _events(answers: list[Answer]) -> bytes:
    return "".join([f"data: {answer.to_json()}\n\n" for answer in answers]).encode()


def _marker(delta: Delta) -> bytes:
    ids = " ".join(map(str, delta.token_ids))
    return MARK_COMMIT + f"{delta.index} {delta.num_cached} {ids}\n\n".encode()


async def _send(send: Send, body: bytes) -> None:
    message: Message = {"type": "http.response.body", "body": body, "more_body": True}
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        await send(message)


def as_api_error(error: Exception) -> ApiError:
    """The answer to an exception: its own, or one that tells nothing but that we failed (the log tells more)."""
    if isinstance(error, ApiError):
        return error
    _log.error("a request failed unexpectedly", exc_info=error)
    return errors.internal()
