"""The way of every request to generate, whatever protocol it came by: find the model, admit, forward, account.

REST, WebSocket and gRPC each make a Generation and an Outlet; from here on they are alike.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from ryzanstein_gateway.account import Account
from ryzanstein_gateway.admission import Admission, Permit
from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.balance import Policy
from ryzanstein_gateway.errors import MODEL_NOT_FOUND, NO_REPLICA, Refused
from ryzanstein_gateway.exchange import Exchange, Outlet
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.limits import members_of, model_of
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.prefix import MOST_BYTES, piece_keys
from ryzanstein_gateway.proxy import Errand, Proxy
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.trace import current

if TYPE_CHECKING:  # not loaded by a gateway that does not trace
    from ryzanstein_gateway.tracing import Tracing

_log = logging.getLogger(__name__)


class Generation(msgspec.Struct, frozen=True):
    """One request to generate: `path` says which of OpenAI's two APIs the body is of.

    `opening`: a view of the first bytes of its messages or its prompt in the body, MOST_BYTES at most.
    """

    path: str
    body: bytes
    model: str
    stream: bool
    principal: Principal
    opening: memoryview | bytes = b""


def read_generation(path: str, body: bytes, principal: Principal) -> Generation:
    """What the gateway needs to know of a body. Raises Refused for one that no worker could take."""
    members = members_of(body)
    stream = members.get("stream") == msgspec.Raw(b"true")
    opening = memoryview(members.get("messages") or members.get("prompt") or b"")[:MOST_BYTES]
    return Generation(path, body, model_of(members), stream, principal, opening)


class Pipeline:
    """One for the process."""

    def __init__(
        self,
        fleet: Fleet,
        proxy: Proxy,
        metrics: Metrics,
        admission: Admission,
        account: Account,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._metrics = metrics
        self._admission = admission
        self._account = account
        self._tracing = tracing

    def find(self, model: str, principal: Principal) -> Route:
        """The route of a model. Raises Refused where there is none for this key."""
        route = self._fleet.table.find(model, principal.key_sets)
        if route is None:
            raise Refused(MODEL_NOT_FOUND)
        return route

    async def run(self, generation: Generation, exchange: Exchange, outlet: Outlet) -> None:
        """From the route to the reply's last byte. Raises Refused before any byte went out."""
        principal = generation.principal
        exchange.key_id = principal.key_id
        route = self.find(generation.model, principal)
        exchange.model = route.model
        self._metrics.size.labels(route.model).observe(len(generation.body))
        if self._tracing is not None:
            exchange.trace = self._tracing.begin(exchange, generation.path, route.model)
            current.set(exchange.trace)
        errand = Errand(
            route,
            generation.path,
            generation.body,
            principal.cache_salt,
            _prefix_keys(generation, route),
            generation.stream,
        )
        permit = await self._admit(route, generation, exchange, outlet)
        try:
            with self._under_way(route.model, generation.stream):
                await self._forward(errand, exchange, permit)
        finally:
            permit.close(exchange)

    @contextmanager
    def _under_way(self, model: str, stream: bool) -> Iterator[None]:
        gauges = [self._metrics.in_flight.labels(model)]
        if stream:
            gauges.append(self._metrics.streams.labels(model))
        for gauge in gauges:
            gauge.inc()
        try:
            yield
        finally:
            for gauge in gauges:
                gauge.dec()

    async def _admit(self, route: Route, generation: Generation, exchange: Exchange, outlet: Outlet) -> Permit:
        asked = time.perf_counter()
        principal = generation.principal
        try:
            return await self._admission.admit(route, principal, exchange.headers, generation.body, outlet)
        finally:
            exchange.queued += time.perf_counter() - asked
            exchange.trace.admitted()
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("in line for %s for %.3f s", route.model, exchange.queued, extra=exchange.ids())

    async def _forward(self, errand: Errand, exchange: Exchange, permit: Permit) -> None:
        """Until a replica has taken it: those that are there may all be starting, and refuse."""
        while True:
            try:
                return await self._proxy.forward(errand, exchange, permit.outlet)
            except Refused as refused:
                if refused.refusal.code != NO_REPLICA.code:
                    raise
            asked = time.perf_counter()
            await permit.again()
            exchange.queued += time.perf_counter() - asked
            exchange.tries = 0

    def account(self, exchange: Exchange) -> None:
        """A request has ended, in whatever way."""
        self._account.close(exchange)


def _prefix_keys(generation: Generation, route: Route) -> tuple[int, ...]:
    if Policy.of(route.policy) is not Policy.PREFIX_AWARE:
        return ()
    scope = f"{route.model} {generation.path} {generation.principal.cache_salt}"
    return piece_keys(generation.opening, scope=scope)
