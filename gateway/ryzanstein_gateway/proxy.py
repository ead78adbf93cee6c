"""Sends a request to a replica and passes the reply on, byte for byte, as it comes.

Knows what may be tried again (only what no replica has begun) and what must be cut. Does not look into bodies, but
for the last bytes of an event stream.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ryzanstein_gateway.balance import Endpoint, Policy
from ryzanstein_gateway.errors import (
    NO_REPLICA,
    OVERLOADED,
    SHUTTING_DOWN,
    STREAM_CUT,
    UPSTREAM_FAILED,
    UPSTREAM_TIMEOUT,
    Refusal,
    Refused,
)
from ryzanstein_gateway.exchange import Exchange, Header, Outlet
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.settings import Settings
from ryzanstein_gateway.upstream import Broken, ConnectFailed, Pool, Response
from ryzanstein_worker.contract import HEADER_CACHE_SALT, HEADER_NOT_STARTED, HEADER_REQUEST_ID

MAX_TRIES: Final = 3
_DONE: Final = b"data: [DONE]"
_TAIL_BYTES: Final = 32
_EVENT_STREAM: Final = b"text/event-stream"
_NOT_STARTED: Final = HEADER_NOT_STARTED.encode()

# What goes up is a list of what may, so that no credential and no header of ours can slip through.
_PASSED_UP: Final = frozenset({b"accept", b"content-type", b"traceparent", b"tracestate", b"user-agent"})
_KEPT_BACK: Final = frozenset(
    name.encode()
    for name in (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),  # hop by hop
        *("date", "server", HEADER_REQUEST_ID, HEADER_NOT_STARTED, HEADER_CACHE_SALT),  # ours to say
    )
)


class NotStarted(Enum):
    """Why a replica has not begun a request, and certainly has not."""

    REFUSED = "refused"
    DRAINING = "draining"
    OVERLOADED = "overloaded"


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be sent: the body as it came, to whichever replica of the route. `prefix_keys`: prefix.piece_keys."""

    route: Route
    path: str
    body: bytes
    cache_salt: str
    prefix_keys: tuple[int, ...] = ()


class Proxy:
    """Forwards errands. One for the process; holds nothing of a request."""

    def __init__(self, fleet: Fleet, pool: Pool, metrics: Metrics, settings: Settings) -> None:
        self._fleet = fleet
        self._pool = pool
        self._metrics = metrics
        self._limit = settings.request_timeout_seconds
        self._connect_timeout = settings.connect_timeout_seconds

    async def forward(self, errand: Errand, exchange: Exchange, reply: Outlet) -> None:
        """Send the errand, to another replica as long as none has begun it. Raises Refused before any byte went out."""
        relay = Relay(reply, exchange)
        try:
            async with asyncio.timeout(self._limit):
                await self._send_somewhere(errand, exchange, relay)
        except TimeoutError:
            await relay.fail(UPSTREAM_TIMEOUT)
        except Broken:
            await relay.fail(STREAM_CUT if reply.started else UPSTREAM_FAILED)
        except asyncio.CancelledError:
            # Either the client has left, and hears no more, or the gateway's time to drain is over.
            if reply.started:
                await relay.fail(SHUTTING_DOWN)
            raise

    async def _send_somewhere(self, errand: Errand, exchange: Exchange, relay: "Relay") -> None:
        tried: set[str] = set()
        reason: NotStarted | None = None
        while exchange.tries < MAX_TRIES:
            choice = self._fleet.pick(errand.route, tried, errand.prefix_keys)
            if choice is None:
                break
            endpoint = choice.endpoint
            policy = Policy.of(errand.route.policy)
            self._metrics.routing_choices.labels(errand.route.model, policy.value, choice.why.value).inc()
            tried.add(endpoint.host)
            exchange.tries += 1
            exchange.endpoint = endpoint.pod or endpoint.host
            if exchange.tries > 1:
                self._metrics.upstream_retries.inc()
            with self._fleet.in_flight(endpoint):
                reason = await self._try(endpoint, errand, exchange, relay)
            if reason is None:
                return
            if reason is not NotStarted.OVERLOADED:  # a full replica is a healthy one
                self._fleet.shun(endpoint)
        raise Refused(OVERLOADED if reason is NotStarted.OVERLOADED else NO_REPLICA)

    async def _try(self, endpoint: Endpoint, errand: Errand, exchange: Exchange, relay: "Relay") -> NotStarted | None:
        reply = self._pool.post(
            endpoint.host,
            errand.route.port,
            errand.path,
            list(_headers_up(exchange, errand)),
            errand.body,
            connect_timeout=self._connect_timeout,
        )
        try:
            async with reply as response:
                said = response.header(_NOT_STARTED)
                if response.status == 503 and said is not None:
                    return (
                        NotStarted.OVERLOADED if said == NotStarted.OVERLOADED.value.encode() else NotStarted.DRAINING
                    )
                await relay.run(response)
        except ConnectFailed:
            return NotStarted.REFUSED
        return None


class Relay:
    """Passes one response on. Status and headers wait for the first byte of the body: until then 502 can be said."""

    def __init__(self, reply: Outlet, exchange: Exchange) -> None:
        self._reply = reply
        self._exchange = exchange
        self._event_stream = False

    async def run(self, response: Response) -> None:
        """Pass on all of a response. Raises Broken where the replica breaks off."""
        content_type = response.header(b"content-type") or b""
        self._event_stream = content_type.startswith(_EVENT_STREAM) and response.status == 200
        tail = b""
        while chunk := await response.read():
            if not self._reply.started:
                await self._reply.start(response.status, _headers_down(response))
            await self._reply.write(chunk)
            if self._event_stream:
                tail = (tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        if self._event_stream and _DONE not in tail:
            # A stream that ends without saying so was broken off, whatever the transport says.
            raise Broken
        if not self._reply.started:
            await self._reply.start(response.status, _headers_down(response))
        await self._reply.end()

    async def fail(self, refusal: Refusal) -> None:
        """Say that it went wrong: as a status while that can be said, else in the stream. Raises Refused."""
        if not self._reply.started:
            raise Refused(refusal)
        await self._reply.cut(refusal, event_stream=self._event_stream)


def _headers_up(exchange: Exchange, errand: Errand) -> Iterator[Header]:
    for name, value in exchange.headers:
        if name in _PASSED_UP:
            yield name, value
    yield HEADER_REQUEST_ID.encode(), exchange.request_id.encode()
    if errand.cache_salt:
        yield HEADER_CACHE_SALT.encode(), errand.cache_salt.encode()


def _headers_down(response: Response) -> list[Header]:
    named = {token.strip().lower() for token in (response.header(b"connection") or b"").split(b",")}
    return [(name, value) for name, value in response.headers if name not in _KEPT_BACK and name not in named]
