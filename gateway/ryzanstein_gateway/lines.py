"""The lines of all models, and what goes on for each: looked at when a request ends, and a few times a second while
somebody waits.

Joins the rules of line with time and with what is seen of the replicas. Knows who waits as futures only, and nothing of
keys, limits or how requests are sent.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ryzanstein_gateway.fair_queue import Entry, Priority
from ryzanstein_gateway.line import Capacity, Line, Turned
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.wake import Waker

LOOK_SECONDS: Final = 0.05
"""How often a line is looked at while somebody waits, and how old what is known of its replicas may be."""
FORGET_SECONDS: Final = 600.0
"""A model that nobody has asked for that long is told of no more: models come and go, and each is written, sent and
added up a few times a second."""

Place = asyncio.Future[Turned | None]
"""A request that waits: None lets it go on."""


@dataclass(slots=True)
class Model:
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
        """In the line, or pausing."""
        return len(self.line.queue) + self.pausing

    def idle_since(self, moment: float) -> bool:
        """Whether nothing has gone on since then."""
        return self.busy_at < moment and not (self.line.own or self.waiting() or self.timer)


class Lines:
    """One for the process, on its event loop. `members`: gateway processes in all that share a model's replicas."""

    def __init__(
        self,
        capacity: Callable[[Route], Capacity],
        waker: Waker,
        metrics: Metrics,
        *,
        members: int,
        clock: Callable[[], float],
    ) -> None:
        self._capacity, self._waker, self._metrics = capacity, waker, metrics
        self._members, self._clock = members, clock
        self._models: dict[str, Model] = {}

    def of(self, route: Route) -> Model:
        """A route's model, with the bounds that the route has now."""
        model = self._models.get(route.model)
        if model is None:
            line: Line[Place] = Line(bound=0, timeout=0.0, members=self._members)
            model = self._models[route.model] = Model(route, line)
        elif model.route is route:
            return model
        model.route = route
        model.line.queue.bound = math.ceil(route.max_queued_requests / self._members)
        model.line.timeout = float(route.queue_timeout_seconds)
        return model

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

    def look(self, model: Model) -> Capacity:
        """What its replicas take, as it is now or was a moment ago."""
        now = self._clock()
        if now - model.seen_at >= LOOK_SECONDS or not model.seen.replicas:
            model.seen, model.seen_at = self._capacity(model.route), now
        return model.seen

    def turn(self, model: Model) -> None:
        """Let go on who may, tell those whose time is over, and look again soon while others wait."""
        now, capacity, line = self._clock(), self.look(model), model.line
        late, turned = line.expire(capacity, now)
        for entry in late:
            tell(entry, turned)
        while (entry_ := line.go_on(capacity, now)) is not None:
            if not tell(entry_, None):
                line.leave()
        for priority in Priority:
            length = line.queue.length(priority)
            self._metrics.queue_length.labels(model.route.model, priority.name.lower()).set(length)
        if len(line.queue):
            if capacity.replicas == 0:
                self._waker.call(model.route, model.waiting)
            if model.timer is None:
                model.timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._timed, model)

    def _timed(self, model: Model) -> None:
        model.timer = None
        self.turn(model)


def tell(entry: Entry[Place], news: Turned | None) -> bool:
    """False where nobody waits for the news any more."""
    if entry.item.done():
        return False
    entry.item.set_result(news)
    return True
