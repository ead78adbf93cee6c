"""Which request goes on when: a key's limits first, then the model's line until a replica has room for it.

Joins the rules (quota, line) with tasks and time: every request that waits is a future here, and each line is looked
at when one of its requests ends, and a few times a second while somebody waits. Knows nothing of how requests are sent.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
from ryzanstein_gateway.line import STANDING, Capacity, Line, Turned, Why
from ryzanstein_gateway.meter import Meter, estimated_prompt
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.priority import priority_of
from ryzanstein_gateway.quota import Quota, Ticket
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.wake import Waker

LOOK_SECONDS: Final = 0.05
"""How often a line is looked at while somebody waits, and how old what is known of its replicas may be."""
PAUSE_SECONDS: Final = 0.1
MOST_PAUSE_SECONDS: Final = 1.0
FORGET_SECONDS: Final = 600.0
"""A model that nobody has asked for that long is told of no more: models come and go, and each is written, sent and
added up a few times a second."""

_REFUSALS: Final[dict[Why, Refusal]] = {
    Why.QUEUE_FULL: OVERLOADED,
    Why.TOO_LATE: OVERLOADED,
    Why.TIMEOUT: QUEUE_TIMEOUT,
    Why.NO_REPLICA: NO_REPLICA,
}

Place = asyncio.Future[Turned | None]
"""A request that waits: None lets it go on."""


@dataclass(slots=True)
class _Model:
    """One model's line, and what was last seen of its replicas."""

    route: Route
    line: Line[Place]
    seen: Capacity = field(default_factory=lambda: Capacity(0))
    seen_at: float = -math.inf
    pausing: int = 0
    """Requests that every replica refused, and that wait a little before they ask again."""
    timer: asyncio.TimerHandle | None = None
    busy_at: float = 0.0
    """When a request last came or went."""

    def waiting(self) -> int:
        return len(self.line.queue) + self.pausing

    def idle_since(self, moment: float) -> bool:
        return self.busy_at < moment and not (self.line.own or self.waiting() or self.timer)


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

    def __init__(self, admission: "Admission", model: _Model, ask: "_Ask", outlet: Outlet) -> None:
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
        self._capacity, self._quota, self._waker, self._metrics = capacity, quota, waker, metrics
        self._shares, self._high, self._clock = shares, high, clock
        self._models: dict[str, _Model] = {}

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
        model = self._model(route)
        model.busy_at = now
        try:
            if not model.line.enter(self._look(model)):
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
        known = self._models.get(model)
        return known.waiting() if known else 0

    def traffic(self, recent: Callable[[str, float], tuple[int, bytes]]) -> list[Traffic]:
        """What this process has for each model that was asked for of late; those of one service are rows of their own.
        `recent`: account.Account's."""
        now = self._clock()
        for name in [name for name, one in self._models.items() if one.idle_since(now - FORGET_SECONDS)]:
            del self._models[name]
        return [
            Traffic(
                one.route.namespace,
                one.route.service,
                one.line.own,
                one.waiting(),
                one.busy_at,
                *recent(one.route.model, now),
            )
            for one in self._models.values()
        ]

    # --- one request ---------------------------------------------------------------------------------

    def _limited(self, route: Route, principal: Principal, tokens: int, priority: Priority) -> Ticket | None:
        try:
            return self._quota.enter(route, principal.cache_salt, tokens)
        except Refused:
            self._metrics.admissions.labels(route.model, priority.name.lower(), "rate_limited").inc()
            raise

    async def _wait(self, model: _Model, ask: _Ask) -> None:
        now, capacity = self._clock(), self._look(model)
        place: Place = asyncio.get_running_loop().create_future()
        got, left = model.line.wait(
            place, ask.key, ask.priority, capacity, cost=ask.cost, now=now, deadline=ask.deadline
        )
        if left is not None:
            _tell(left, model.line.full(now))
        self._turn(model)
        turned = got if isinstance(got, Turned) else await self._until_told(model, got)
        if turned is not None:
            raise self._refused(model, ask, turned)
        self._metrics.queue_wait.labels(model.route.model, ask.priority.name.lower()).observe(self._clock() - now)

    async def _until_told(self, model: _Model, entry: Entry[Place]) -> Turned | None:
        try:
            return await entry.item
        except asyncio.CancelledError:
            if entry.item.cancelled():
                model.line.give_up(entry)
            elif entry.item.result() is None:  # it was let go on in this very turn of the loop
                model.line.leave()
            self._turn(model)
            raise

    async def _again(self, model: _Model, ask: _Ask, pause: float) -> None:
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
        if not model.line.enter(self._look(model)):
            await self._wait(model, ask)

    def _leave(self, model: _Model) -> None:
        model.busy_at = self._clock()
        model.line.leave()
        if len(model.line.queue):
            self._turn(model)

    def _refused(self, model: _Model, ask: _Ask, turned: Turned) -> Refused:
        self._metrics.admissions.labels(model.route.model, ask.priority.name.lower(), turned.why.value).inc()
        return Refused(retry_after(_REFUSALS[turned.why], turned.seconds))

    # --- one line ------------------------------------------------------------------------------------

    def _model(self, route: Route) -> _Model:
        model = self._models.get(route.model)
        if model is None:
            line: Line[Place] = Line(bound=0, timeout=0.0, members=self._shares.members)
            model = self._models[route.model] = _Model(route, line)
        elif model.route is route:
            return model
        model.route = route
        model.line.queue.bound = math.ceil(route.max_queued_requests / self._shares.members)
        model.line.timeout = float(route.queue_timeout_seconds)
        return model

    def _look(self, model: _Model) -> Capacity:
        now = self._clock()
        if now - model.seen_at >= LOOK_SECONDS or not model.seen.replicas:
            model.seen, model.seen_at = self._capacity(model.route), now
        return model.seen

    def _turn(self, model: _Model) -> None:
        """Let go on who may, tell those whose time is over, and look again soon while others wait."""
        now, capacity, line = self._clock(), self._look(model), model.line
        late, turned = line.expire(capacity, now)
        for entry in late:
            _tell(entry, turned)
        while (entry_ := line.go_on(capacity, now)) is not None:
            if not _tell(entry_, None):
                line.leave()
        for priority in Priority:
            length = line.queue.length(priority)
            self._metrics.queue_length.labels(model.route.model, priority.name.lower()).set(length)
        if len(line.queue):
            if capacity.replicas == 0:
                self._waker.call(model.route, model.waiting)
            if model.timer is None:
                model.timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._timed, model)

    def _timed(self, model: _Model) -> None:
        model.timer = None
        self._turn(model)


def _tell(entry: Entry[Place], news: Turned | None) -> bool:
    """False where nobody waits for the news any more."""
    if entry.item.done():
        return False
    entry.item.set_result(news)
    return True
