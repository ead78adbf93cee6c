"""Brings a request to its end: sends it to a replica, and to another where one does not take it or is lost with it.

Knows the order of things: choose, send, pass on, and what follows a loss. The decisions themselves are migrate's and
balance's, the bytes delivery's.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from ryzanstein_gateway.balance import Endpoint, Policy
from ryzanstein_gateway.deadline import Deadlines
from ryzanstein_gateway.delivery import Delivery, Errand
from ryzanstein_gateway.errors import (
    NO_REPLICA,
    OVERLOADED,
    QUARANTINED,
    SHUTTING_DOWN,
    STREAM_CUT,
    UPSTREAM_FAILED,
    UPSTREAM_TIMEOUT,
    Refusal,
    Refused,
)
from ryzanstein_gateway.exchange import Exchange, Outlet
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.journal import StreamError
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.migrate import Ending, Step
from ryzanstein_gateway.replica_state import Attempt, ReplicaState
from ryzanstein_gateway.retry_budget import RetryBudget
from ryzanstein_gateway.settings import Settings
from ryzanstein_gateway.strikes import MOST_STRIKES, Strikes, fingerprint
from ryzanstein_gateway.trace import Attempt as SpanOfAttempt
from ryzanstein_gateway.upstream import Broken, ConnectFailed, Pool

__all__ = ["Errand", "Proxy"]

MAX_TRIES: Final = 3
"""So many replicas are asked, one after the other, to begin a request."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0

_log = logging.getLogger(__name__)


class Proxy:
    """Forwards errands. One for the process; what it holds of requests are the fingerprints of suspects."""

    def __init__(
        self,
        fleet: Fleet,
        pool: Pool,
        metrics: Metrics,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._pool = pool
        self._metrics = metrics
        self._limits = Deadlines(settings.request_timeout_seconds)
        self._connect_timeout = settings.connect_timeout_seconds
        self._patience = settings.replica_wait_seconds
        self._budget = RetryBudget(percent=settings.retry_percent, reserve=settings.retry_reserve)
        self._strikes = Strikes()
        self._in_flight = 0
        self._clock = clock

    async def forward(self, errand: Errand, exchange: Exchange, outlet: Outlet) -> None:
        """Have the errand answered, by one replica or by several. Raises Refused before any byte went out."""
        if self._strikes and self._strikes.quarantined(fingerprint(errand.path, errand.body), self._clock()):
            raise Refused(QUARANTINED)
        delivery = Delivery(errand, exchange, outlet, self._clock)
        self._budget.request(self._clock())
        self._in_flight += 1
        try:
            async with self._limits.limit():
                await self._deliver(delivery)
        except TimeoutError:
            await delivery.fail(UPSTREAM_TIMEOUT)
        except asyncio.CancelledError:
            # Either the client has left, and hears no more, or the gateway's time to drain is over.
            if outlet.started:
                await delivery.fail(SHUTTING_DOWN)
            raise
        finally:
            self._in_flight -= 1
            exchange.migrations = delivery.losses.migrations
            if delivery.journal is not None:
                exchange.completion_tokens = delivery.journal.num_tokens
            for gap in delivery.gaps:
                self._metrics.migration_gap.labels(errand.route.model).observe(gap)

    async def _deliver(self, delivery: Delivery) -> None:
        while True:
            ending, endpoint = await self._offer(delivery)
            if ending is None or endpoint is None:
                await delivery.fail(OVERLOADED if ending is Ending.OVERLOADED else _nobody(delivery))
                return
            if ending is Ending.ANSWERED:
                if self._strikes:
                    self._strikes.clear(fingerprint(delivery.errand.path, delivery.errand.body))
                return
            if ending is Ending.QUARANTINED:
                await delivery.fail(QUARANTINED)
                return
            if (refusal := self._move(delivery, ending, endpoint)) is not None:
                await delivery.fail(refusal)
                return

    async def _offer(self, delivery: Delivery) -> tuple[Ending | None, Endpoint | None]:
        """Ask one replica after the other until one begins the request: how that ended, and where.

        No endpoint where none has begun it. A request that has lost its replica waits a while for another: the lost
        one may be the only one, and come back.
        """
        moving = delivery.losses.migrations > 0
        give_up_at = self._clock() + (self._patience if moving else 0.0)
        pause = _FIRST_PAUSE
        tried = {delivery.left}
        asked = 0
        ending: Ending | None = None
        while True:
            endpoint = self._pick(delivery, tried) if asked < MAX_TRIES else None
            if endpoint is None:
                if self._clock() + pause > give_up_at:
                    return ending, None
                await asyncio.sleep(pause)
                pause, asked = min(2 * pause, _LONGEST_PAUSE), 0
                tried.clear()
                continue
            if ending is not None:
                if not moving and not self._budget.spend(self._clock(), self._in_flight):
                    return ending, None
                self._metrics.upstream_retries.labels(ending.value).inc()
            tried.add(endpoint.host)
            asked += 1
            ending = await self._attempt(endpoint, delivery)
            if ending in (Ending.ANSWERED, Ending.QUARANTINED) or ending.lost:
                return ending, endpoint
            if ending is Ending.UNFIT and not delivery.outlet.started:
                delivery.journal = None  # nothing was delivered: from the beginning, then

    def _pick(self, delivery: Delivery, tried: set[str]) -> Endpoint | None:
        route = delivery.errand.route
        choice = self._fleet.pick(route, tried, delivery.errand.prefix_keys)
        if choice is None:
            return None
        self._metrics.routing_choices.labels(route.model, Policy.of(route.policy).value, choice.why.value).inc()
        return choice.endpoint

    async def _attempt(self, endpoint: Endpoint, delivery: Delivery) -> Ending:
        delivery.exchange.tries += 1
        delivery.exchange.endpoint = endpoint.pod or endpoint.host
        delivery.progress = 0
        span = delivery.exchange.trace.attempt(delivery.exchange.endpoint, endpoint.host, delivery.errand.route.port)
        with self._fleet.attempt(endpoint, delivery.errand.route) as (replica, attempt), span:
            ending = await self._send(endpoint, delivery, replica, attempt, span)
            span.ended(ending.value, delivery.progress)
            if _log.isEnabledFor(logging.DEBUG):
                exchange = delivery.exchange
                words = (exchange.tries, endpoint.host, ending.value, delivery.progress)
                _log.debug("try %d at %s: %s, %d tokens", *words, extra=exchange.ids())
            match ending:
                case Ending.REFUSED | Ending.HANG:
                    replica.failed(certain=True)
                case Ending.CRASH:
                    replica.failed(certain=False)
                case Ending.DRAINING | Ending.DRAIN:
                    replica.shun()
            return ending

    async def _send(
        self, endpoint: Endpoint, delivery: Delivery, replica: ReplicaState, attempt: Attempt, span: SpanOfAttempt
    ) -> Ending:
        errand = delivery.errand
        headers, body = delivery.message()
        headers = span.carry(headers)
        sent_at = attempt.waiting_since = self._clock()
        timeout = self._connect_timeout
        try:
            async with self._pool.post(
                endpoint.host, errand.route.port, errand.path, headers, body, connect_timeout=timeout
            ) as response:
                attempt.waiting_since = None
                return await delivery.receive(response, replica, attempt, sent_at)
        except ConnectFailed:
            return Ending.REFUSED
        except Broken:
            return Ending.CRASH
        except StreamError as error:
            _log.error("request %s: %s", delivery.exchange.request_id, error, extra=delivery.exchange.ids())
            return Ending.CRASH
        except asyncio.CancelledError:
            if attempt.absorb():
                return Ending.HANG
            raise

    def _move(self, delivery: Delivery, ending: Ending, endpoint: Endpoint) -> Refusal | None:
        """After a loss: None where the request goes to another replica, else what the client is told."""
        losses, step = delivery.losses.after(ending, delivery.progress)
        if losses.strikes > delivery.losses.strikes:
            print_ = fingerprint(delivery.errand.path, delivery.errand.body)
            if self._strikes.add(print_, endpoint.host, self._clock()) >= MOST_STRIKES:
                step = Step.QUARANTINE
        if step is Step.MIGRATE:
            allowed = delivery.can_move() and self._budget.spend(self._clock(), self._in_flight)
            step = step if allowed else Step.GIVE_UP
        outcome = step.value if step is not Step.MIGRATE else "resumed" if delivery.resuming() else "anew"
        self._metrics.migrations.labels(delivery.errand.route.model, ending.value, outcome).inc()
        delivery.exchange.trace.lost(delivery.exchange.endpoint, ending.value, outcome)
        exchange = delivery.exchange
        words = (exchange.request_id, endpoint.host, ending.value, outcome)
        _log.warning("request %s lost %s: %s, %s", *words, extra=exchange.ids())
        if step is Step.MIGRATE:
            delivery.lose(endpoint.host, losses)
            return None
        if step is Step.QUARANTINE:
            return QUARANTINED
        return STREAM_CUT if delivery.outlet.started else UPSTREAM_FAILED


def _nobody(delivery: Delivery) -> Refusal:
    return STREAM_CUT if delivery.outlet.started else NO_REPLICA
