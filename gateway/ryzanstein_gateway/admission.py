"""Which request goes on when: a key's limits first, then the model's line until a replica has room for it.

Joins the rules (quota, line) with tasks and time: every request that waits is a task here, and a future in its model's
line. Knows nothing of how requests are sent.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.errors import (
    NO_REPLICA,
    OVERLOADED,
    QUEUE_TIMEOUT,
    Refusal,
    Refused,
    retry_after,
)
from ryzanstein_gateway.exchange import Exchange, Header, Outlet
from ryzanstein_gateway.fair_queue import Entry, Priority
from ryzanstein_gateway.line import STANDING, Capacity, Turned, Why
from ryzanstein_gateway.lines import Lines, Model, Place, tell
from ryzanstein_gateway.meter import Meter, estimated_prompt
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.priority import priority_of
from ryzanstein_gateway.quota import Quota, Ticket
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.wake import Waker

PAUSE_SECONDS: Final = 0.1
MOST_PAUSE_SECONDS: Final = 1.0

_REFUSALS: Final[dict[Why, Refusal]] = {
    Why.QUEUE_FULL: OVERLOADED,
    Why.TOO_LATE: OVERLOADED,
    Why.TIMEOUT: QUEUE_TIMEOUT,
    Why.NO_REPLICA: NO_REPLICA,
}


@dataclass(frozen=True, slots=True)
class Shares:
    """Among how many a model's replicas and its limits are divided."""

    pods: int = 1
    processes: int = 1

    @property
    def members(self) -> int:
        """Gateway processes in all."""
        return self.pods * self.processes


class Permit:
    """A request that may go on. `close` it when it has ended, in whatever way."""

    def __init__(self, admission: "Admission", model: Model, ask: "_Ask", outlet: Outlet) -> None:
        self._admission, self._model, self._ask = admission, model, ask
        ticket = ask.ticket
        self._meter = Meter(outlet, ticket.headers) if ticket is not None else None
        self.outlet: Outlet = self._meter or outlet
        self._pause = PAUSE_SECONDS
        self._holds = True

    async def again(self) -> None:
        """No replica took it, though some were there: wait until one may. Raises Refused when its time is over."""
        self._holds = False
        await self._admission._again(self._model, self._ask, self._pause)
        self._holds = True
        self._pause = min(2 * self._pause, MOST_PAUSE_SECONDS)

    def close(self, exchange: Exchange) -> None:
        """Make room for the next, and settle what it cost."""
        if self._holds:
            self._holds = False
            self._admission._leave(self._model)
        ticket = self._ask.ticket
        if ticket is not None and self._meter is not None:
            if self.outlet.started:
                ticket.leave(self._meter.tokens(ticket.estimate, exchange))
            else:
                ticket.refund()


class _Ask(msgspec.Struct, frozen=True):
    """One request as the line sees it."""

    key: str
    priority: Priority
    cost: float
    arrived: float
    deadline: float
    ticket: Ticket | None


class Admission:
    """One for the process, on its event loop. `high`: key sets whose keys may ask for high priority."""

    def __init__(
        self,
        capacity: Callable[[Route], Capacity],
        quota: Quota,
        waker: Waker,
        metrics: Metrics,
        *,
        shares: Shares,
        high: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quota, self._waker, self._metrics, self._high, self._clock = quota, waker, metrics, high, clock
        self._lines = Lines(capacity, waker, metrics, members=shares.members, clock=clock)

    async def admit(
        self, route: Route, principal: Principal, headers: Iterable[Header], body: bytes, outlet: Outlet
    ) -> Permit:
        """Wait until the request may go on. Raises Refused: 400, 403, 429 at once, 503 at once or when it has waited
        in vain. Whoever is cancelled meanwhile, because its client has left, leaves the line at once."""
        priority = priority_of(headers, principal, self._high)
        tokens = estimated_prompt(body)
        ticket = self._limited(route, principal, tokens, priority)
        now = self._clock()
        deadline = now + route.queue_timeout_seconds
        ask = _Ask(principal.cache_salt, priority, float(tokens), now, deadline, ticket)
        model = self._lines.of(route)
        model.busy_at = now
        try:
            if not model.line.enter(self._lines.look(model)):
                await self._wait(model, ask)
        except BaseException:
            model.busy_at = self._clock()
            if ticket is not None:
                ticket.refund()
            raise
        self._metrics.admissions.labels(route.model, priority.name.lower(), "admitted").inc()
        return Permit(self, model, ask, outlet)

    def waiting(self, model: str) -> int:
        """How many requests for a model wait."""
        return self._lines.waiting(model)

    def traffic(self, recent: Callable[[str, float], tuple[int, bytes]]) -> list[Traffic]:
        """What this process has for each model: lines.Lines.traffic."""
        return self._lines.traffic(recent)

    def _limited(self, route: Route, principal: Principal, tokens: int, priority: Priority) -> Ticket | None:
        try:
            return self._quota.enter(route, principal.cache_salt, tokens)
        except Refused:
            self._metrics.admissions.labels(route.model, priority.name.lower(), "rate_limited").inc()
            raise

    async def _wait(self, model: Model, ask: _Ask) -> None:
        now, capacity = self._clock(), self._lines.look(model)
        place: Place = asyncio.get_running_loop().create_future()
        got, left = model.line.wait(
            place, ask.key, ask.priority, capacity, cost=ask.cost, now=now, deadline=ask.deadline
        )
        if left is not None:
            tell(left, model.line.full(now))
        self._lines.turn(model)
        turned = got if isinstance(got, Turned) else await self._until_told(model, got)
        if turned is not None:
            raise self._refused(model, ask, turned)
        self._metrics.queue_wait.labels(model.route.model, ask.priority.name.lower()).observe(self._clock() - now)

    async def _until_told(self, model: Model, entry: Entry[Place]) -> Turned | None:
        try:
            return await entry.item
        except asyncio.CancelledError:
            if entry.item.cancelled():
                model.line.give_up(entry)
            elif entry.item.result() is None:  # it was let go on in this very turn of the loop
                model.line.leave()
            self._lines.turn(model)
            raise

    async def _again(self, model: Model, ask: _Ask, pause: float) -> None:
        """Wait outside of the line for a moment, then as a newcomer whose time is already running."""
        self._leave(model)
        now = self._clock()
        if now + pause >= ask.deadline or model.pausing >= model.line.queue.bound:
            raise self._refused(model, ask, Turned(Why.NO_REPLICA, model.line.timeout * STANDING))
        model.pausing += 1
        self._waker.call(model.route, model.waiting)
        try:
            await asyncio.sleep(pause)
        finally:
            model.pausing -= 1
        model.seen_at = -math.inf
        if not model.line.enter(self._lines.look(model)):
            await self._wait(model, ask)

    def _leave(self, model: Model) -> None:
        model.busy_at = self._clock()
        model.line.leave()
        if len(model.line.queue):
            self._lines.turn(model)

    def _refused(self, model: Model, ask: _Ask, turned: Turned) -> Refused:
        self._metrics.admissions.labels(model.route.model, ask.priority.name.lower(), turned.why.value).inc()
        return Refused(retry_after(_REFUSALS[turned.why], turned.seconds))
