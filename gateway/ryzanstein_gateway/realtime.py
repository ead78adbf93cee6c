"""One WebSocket: many requests at once, each by its id; their chunks interleaved as they come.

Knows the messages of `/v1/realtime/completions` (docs/api.md) and ASGI's; the way of a request is the pipeline's. Holds
no more of any answer than the chunk on its way out: a client that reads slowly slows its own requests.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final, Literal

import msgspec

from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.errors import (
    BODY_TOO_LARGE,
    INTERNAL,
    INVALID_MESSAGE,
    SHUTTING_DOWN,
    SOCKET_FULL,
    TAKEN_ID,
    Refusal,
    Refused,
)
from ryzanstein_gateway.exchange import REQUEST_ID, Exchange, Header, Receive, Send
from ryzanstein_gateway.limits import members_of
from ryzanstein_gateway.messages import Failure, MessageOutlet, failure_of
from ryzanstein_gateway.pipeline import Pipeline, read_generation
from ryzanstein_gateway.protocol import DRAIN
from ryzanstein_gateway.settings import Settings
from ryzanstein_worker.contract import CHAT_COMPLETIONS, COMPLETIONS

PROTOCOL: Final = "WEBSOCKET"
"""What the access log has for a method."""
SEND_SECONDS: Final = 60.0
"""A client that reads nothing for so long is taken for gone."""
CLIENT_CLOSED: Final = 499
NORMAL, GOING_AWAY, UNSUPPORTED_DATA = 1000, 1001, 1003  # RFC 6455, section 7.4.1
_MAX_ID_BYTES: Final = 100
_PATHS: Final = {"completion": COMPLETIONS, "chat": CHAT_COMPLETIONS}

_log = logging.getLogger(__name__)

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Create(msgspec.Struct, frozen=True, tag="create", forbid_unknown_fields=True):
    """Begin a request; `request` is the body of its REST twin."""

    id: Id
    kind: Literal["completion", "chat"]
    request: msgspec.Raw


class Cancel(msgspec.Struct, frozen=True, tag="cancel", forbid_unknown_fields=True):
    """End a request. One that is not running may just have ended, so that is no error."""

    id: Id


_DECODER: Final = msgspec.json.Decoder(Create | Cancel)


class Realtime:
    """One socket, from its acceptance to its end. `hang_up` cuts a connection that nobody reads from."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        principal: Principal,
        handshake: Exchange,
        receive: Receive,
        send: Send,
        hang_up: Callable[[], None],
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._principal = principal
        self._handshake = handshake
        self._receive = receive
        self._send = send
        self._hang_up = hang_up
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unwanted: set[str] = set()
        """Ids that the client has cancelled."""
        self._begun = 0
        self._draining = False
        self._turn = asyncio.Lock()  # first come, first served: that is what interleaves
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Accept, and answer until the client leaves, is idle for too long, or the gateway has drained."""
        await self._receive()  # websocket.connect
        accept = [(REQUEST_ID, self._handshake.request_id.encode())]
        await self._send({"type": "websocket.accept", "headers": accept})
        code = GOING_AWAY
        try:
            code = await self._listen()
        except asyncio.CancelledError:
            pass  # the time to drain is over; the running requests are told so below
        finally:
            await self._end_all()
        if code:
            await self._close(code)

    async def _listen(self) -> int:
        """Take messages until there is a reason to close: its code, 0 when the client has closed."""
        receiving = asyncio.ensure_future(self._receive())
        try:
            while True:
                if self._draining and not self._running:
                    return GOING_AWAY
                self._ended.clear()
                ended = asyncio.create_task(self._ended.wait())
                idle = None if self._running else self._settings.realtime_idle_seconds
                done, _ = await asyncio.wait({receiving, ended}, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not done:
                    return NORMAL
                if receiving in done:
                    message = receiving.result()
                    if message["type"] == "websocket.disconnect":
                        return 0
                    if message["type"] == DRAIN:
                        self._draining = True
                    elif message.get("text") is None:
                        return UNSUPPORTED_DATA
                    else:
                        await self._take(message["text"])
                    receiving = asyncio.ensure_future(self._receive())
        finally:
            receiving.cancel()

    async def _take(self, text: str) -> None:
        """Act on one message. What is wrong with it is answered; the socket lives on."""
        try:
            members_of(text.encode())  # an object, not too deep, no key twice
            message = _DECODER.decode(text)
        except Refused as refused:
            await self.say_error(None, failure_of(refused.refusal))
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            await self.say_error(None, failure_of(INVALID_MESSAGE))
        else:
            if isinstance(message, Cancel):
                self._cancel(message.id)
            elif (refusal := self._why_not(message)) is not None:
                await self.say_error(message.id, failure_of(refusal))
            else:
                self._running[message.id] = asyncio.create_task(self._answer(message))

    def _why_not(self, create: Create) -> Refusal | None:
        if self._draining:
            return SHUTTING_DOWN
        if create.id in self._running:
            return TAKEN_ID
        if len(self._running) >= self._settings.realtime_max_requests:
            return SOCKET_FULL
        return BODY_TOO_LARGE if len(bytes(create.request)) > self._settings.max_body_bytes else None

    def _cancel(self, name: str) -> None:
        task = self._running.get(name)
        if task is not None and name not in self._unwanted:
            self._unwanted.add(name)
            task.cancel()

    async def _answer(self, create: Create) -> None:
        """One request from its message to its last one: done, error or cancelled."""
        exchange = self._exchange()
        outlet = SocketOutlet(exchange, self, create.id)
        try:
            failure = await self._generate(create, exchange, outlet)
            if failure is None:
                await self._say_end("done", create.id, exchange)
            else:
                await self.say_error(create.id, failure, exchange.request_id)
        except asyncio.CancelledError:
            exchange.status, exchange.outcome = CLIENT_CLOSED, exchange.outcome or "client_closed"
            with suppress(OSError):
                if create.id in self._unwanted:
                    await self._say_end("cancelled", create.id, exchange)
                elif outlet.failure is not None:
                    await self.say_error(create.id, outlet.failure, exchange.request_id)
            raise
        except OSError:  # what a send to a client that has gone raises
            exchange.status, exchange.outcome = CLIENT_CLOSED, "client_closed"
        finally:
            self._pipeline.account(exchange)
            self._unwanted.discard(create.id)
            del self._running[create.id]
            self._ended.set()

    async def _generate(self, create: Create, exchange: Exchange, outlet: "SocketOutlet") -> Failure | None:
        """Run one request; what was wrong, None where nothing was."""
        try:
            generation = read_generation(_PATHS[create.kind], bytes(create.request), self._principal)
            await self._pipeline.run(generation, exchange, outlet)
            return outlet.failure
        except Refused as refused:
            exchange.status, exchange.outcome = refused.refusal.status, exchange.outcome or refused.refusal.code
            return failure_of(refused.refusal)
        except OSError:
            raise
        except Exception:
            _log.exception("request %s failed", exchange.request_id, extra=exchange.ids())
            exchange.status, exchange.outcome = INTERNAL.status, INTERNAL.code
            return failure_of(INTERNAL)

    def _exchange(self) -> Exchange:
        self._begun += 1
        headers: list[Header] = [pair for pair in self._handshake.headers if pair[0] != b"content-type"]
        return Exchange(
            PROTOCOL,
            self._handshake.path,
            [*headers, (b"content-type", b"application/json")],
            f"{self._handshake.request_id[:_MAX_ID_BYTES]}.{self._begun}",
        )

    async def _say_end(self, kind: str, name: str, exchange: Exchange) -> None:
        await self.send(msgspec.json.encode({"type": kind, "id": name, "request_id": exchange.request_id}))

    async def say_error(self, name: str | None, failure: Failure, request_id: str = "") -> None:
        """Send an error; without an id where the message had none that could be read."""
        message: dict[str, Any] = {"type": "error", "id": name, "status": failure.status or None}
        message["error"] = failure.error
        if failure.retry_after.isdigit():
            message["retry_after"] = int(failure.retry_after)
        if request_id:
            message["request_id"] = request_id
        await self.send(msgspec.json.encode(message))

    async def send(self, text: bytes) -> None:
        """Send one text. Waits for its turn, and while the client reads slowly; hangs up when it does not read."""
        try:
            async with asyncio.timeout(SEND_SECONDS), self._turn:
                await self._send({"type": "websocket.send", "text": text.decode()})
        except TimeoutError:
            self._hang_up()
            raise

    async def _close(self, code: int) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send({"type": "websocket.close", "code": code})
        except TimeoutError:
            self._hang_up()

    async def _end_all(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SocketOutlet(MessageOutlet):
    """Chunks of JSON into messages of one id, as they are."""

    def __init__(self, exchange: Exchange, socket: Realtime, name: str) -> None:
        super().__init__(exchange)
        self._socket = socket
        self._head = b'{"type":"event","id":%b,"data":' % msgspec.json.encode(name)

    async def piece(self, data: bytes) -> None:
        """Send one message."""
        await self._socket.send(self._head + data + b"}")
