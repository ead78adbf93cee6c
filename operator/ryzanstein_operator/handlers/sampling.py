"""Asks Prometheus about every autoscaled service, in turn and without haste. Knows when to ask, not what follows.

Each service is asked about every five seconds, spread over them; where there are so many that this would be more than
MOST_PER_SECOND queries, less often. No more than ASKERS wait at one time: a Prometheus that is slow is not made slower.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.cluster.prometheus import Point, QueryError
from ryzanstein_operator.decide.queries import activity, query_of
from ryzanstein_operator.decide.samples import Series, active_of, sample_of
from ryzanstein_operator.decide.sizing import Sample
from ryzanstein_operator.handlers.scaler import STALE_SECONDS, Question, Reading, Scaler

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 5.0
ASKERS: Final = 8
MOST_PER_SECOND: Final = 100.0
IDLE_SECONDS: Final = 0.5
"""Between two looks whether there is a service to ask about."""
JITTER: Final = 0.2
NOT_SET: Final = (
    "the operator knows no Prometheus; set prometheus.install or prometheus.url in the chart's values "
    "(RYZANSTEIN_PROMETHEUS_URL)"
)


class Metrics(Protocol):
    """What is counted of it."""

    def queried(self, seconds: float, failure: str = "") -> None: ...


class Asked(Protocol):
    """What answers queries."""

    async def query(self, text: str, *, foreign: bool = False) -> tuple[Point, ...]: ...


class Sampling:
    """`run()` goes on until it is cancelled. leading: only the leader asks; wake: asks for a visit."""

    def __init__(
        self,
        prometheus: Asked | None,
        scaler: Scaler,
        metrics: Metrics,
        leading: Callable[[], bool],
        wake: Callable[[Key], Awaitable[None]],
    ) -> None:
        self._prometheus, self._scaler, self._metrics = prometheus, scaler, metrics
        self._leading, self._wake = leading, wake
        self._due: asyncio.Queue[Key] = asyncio.Queue(1)

    async def run(self) -> None:
        """Ask, round after round."""
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKERS):
                group.create_task(self._ask())
            group.create_task(self._rounds())

    async def _rounds(self) -> None:
        while True:
            services = self._scaler.services() if self._leading() else ()
            if not services:
                await asyncio.sleep(IDLE_SECONDS)
                continue
            started, period = time.monotonic(), self._period(services)
            self._scaler.fresh_seconds = max(STALE_SECONDS, 3 * period)
            for place, key in enumerate(services):
                await self._due.put(key)
                # Towards when the next one is due, so that a slow answer does not put off all that come after it.
                due = started + period * (place + 1 + random.uniform(-JITTER, JITTER)) / len(services)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _period(self, services: tuple[Key, ...]) -> float:
        questions = (self._scaler.question(key) for key in services)
        count = sum(len(one.autoscaling.targets) + bool(one.activity) for one in questions if one)
        return max(PERIOD_SECONDS, count / MOST_PER_SECOND)

    async def _ask(self) -> None:
        while True:
            key = await self._due.get()
            try:
                await self._look(key)
            except Exception:  # a fault of ours in one service must not end the asking for all others
                logger.exception("A service's targets could not be asked for", extra={"key": str(key)})

    async def _look(self, key: Key) -> None:
        question = self._scaler.question(key)
        if question is None:
            return
        samples, failed = [], set()
        for place, target in enumerate(question.autoscaling.targets):
            try:
                samples.append(await self._sample(target, question))
            except QueryError as error:
                failed.add(place)
                samples.append(Sample(None, trouble=str(error)))
        reading = Reading(tuple(samples), await self._active(question))
        if self._leading() and self._scaler.answered(key, question, reading, frozenset(failed)):
            await self._wake(key)

    async def _sample(self, target: Target, question: Question) -> Sample:
        """Raises QueryError where Prometheus says nothing; what it says may be of no use all the same."""
        if self._prometheus is None:
            raise QueryError("unset", NOT_SET)
        started = time.monotonic()
        try:
            text = query_of(target, question.place)
            answer = await self._prometheus.query(text, foreign=target.metric == "Query")
        except QueryError as error:
            self._metrics.queried(time.monotonic() - started, error.why)
            raise
        sample = sample_of(target, _series(answer), expected=question.expected)
        self._metrics.queried(time.monotonic() - started, "unusable" if sample.value is None else "")
        return sample

    async def _active(self, question: Question) -> bool | None:
        if not question.activity or self._prometheus is None:
            return None
        started = time.monotonic()
        try:
            answer = await self._prometheus.query(activity(question.place, question.activity))
        except QueryError as error:
            self._metrics.queried(time.monotonic() - started, error.why)
            return None
        self._metrics.queried(time.monotonic() - started)
        return active_of(_series(answer))


def _series(answer: tuple[Point, ...]) -> tuple[Series, ...]:
    return tuple((point.labels, point.value) for point in answer)
