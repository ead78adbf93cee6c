"""One level-triggered visit per key: observe, decide, carry out. An event only wakes it, and never says what to do."""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from ryzanstein_operator import logs
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.apply import Executor, NotLeadingError, Outcome
from ryzanstein_operator.cluster.cache import NODES_VISIT, ROUTES_VISIT, Cache, Key, key_of
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_operator.cluster.demand import Demands
from ryzanstein_operator.cluster.lease import Lease
from ryzanstein_operator.cluster.nodes import NodeHealth
from ryzanstein_operator.cluster.observe import Observer
from ryzanstein_operator.cluster.resources import NODES, SERVICES
from ryzanstein_operator.cluster.views import Views
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.plan import Plan
from ryzanstein_operator.decide.reconcile import reconcile, reconcile_routes
from ryzanstein_operator.doorbell import Heard
from ryzanstein_operator.gateway_view import GatewayView
from ryzanstein_operator.handlers.news import Haste, take_in
from ryzanstein_operator.handlers.queue import SETTLE_SECONDS, WorkQueue
from ryzanstein_operator.handlers.scaler import Scaler
from ryzanstein_operator.settings import Settings
from ryzanstein_operator.telemetry import Metrics
from ryzanstein_operator.trace import About, Tracer, Visit, Wakers, current

logger = logging.getLogger(__name__)

WORKERS: Final = 16
"""Visits at one time. They mostly wait for the API server; and it never gets more calls at once than these make."""
RESYNC_SECONDS: Final = 600.0
FIRST_LIST_SECONDS: Final = 2.0
LISTS_SECONDS: Final = 0.2
"""The watch lists all kinds at the same time: one list of ours answers to all of them."""
FORGET_SECONDS: Final = 1.0
SIGHT_SECONDS: Final = 0.05
"""A visit to the nodes waits less than one to a service: those want to know what came of it."""
LEAD_POLL_SECONDS: Final = 0.2
FAILED_SECONDS: Final = 5.0
"""The least time between a visit that failed in part and the next that only the clock asks for."""


class Loop:
    """The operator's heart. `run()` goes on until it is cancelled."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        observer: Observer,
        executor: Executor,
        lease: Lease,
        metrics: Metrics,
        demands: Demands,
        views: Views,
        scaler: Scaler,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings, self._cache, self._observer = settings, cache, observer
        self._executor, self._lease, self._metrics, self._demands = executor, lease, metrics, demands
        self._views, self._nodes, self._scaler = views, NodeHealth(cache, views, settings), scaler
        self._tracer, self._woken = tracer or Tracer(), Wakers()
        # What is over all services, routes and nodes, does not wait behind a thousand of them.
        self._queue: WorkQueue[Key] = WorkQueue(first=lambda key: not key.namespace)
        self._refused: dict[Key, dict[Ref, str]] = {}
        self._refresh = asyncio.Event()
        self.fault = "the first list is not through"

    def backlog(self) -> tuple[int, float | None]:
        """How many keys are due, and since when (time.monotonic) the one that has waited longest."""
        return self._queue.backlog()

    # --- what the watch tells ------------------------------------------------------------------------

    def listed(self) -> None:
        """The watch has listed a kind: at the start, or because it was broken, and then deletions may have been missed.

        It tells of what changes after its list. So what was deleted before it shows only in a list of ours that is
        made later; an empty list of the watch calls no handler.
        """
        self._refresh.set()

    async def watched(self, kind: str | None, manifest: Manifest) -> None:
        """Take in one event: `kind` is the watch's ADDED, MODIFIED or DELETED, or None for an item of a first list."""
        for key, haste in take_in(self._cache, kind, manifest):
            if haste is Haste.PACED:
                await self._queue.add_paced(key)
            else:
                await self._queue.add(key, SIGHT_SECONDS if key == NODES_VISIT else SETTLE_SECONDS)

    async def heard(self, service: Key, sender: str, waiting: int, traceparent: str = "") -> Heard:
        """Take in what a gateway says, and visit the service at once. A standby keeps it in mind."""
        if self._cache.get(SERVICES, service.namespace, service.name) is None:
            return Heard.UNKNOWN
        self._demands.tell(service, sender, waiting)
        self._woken.by(service, traceparent)
        await self._queue.add(service)
        return Heard.LEADING if self._lease.held() and not self.fault else Heard.STANDBY

    async def heard_view(self, view: GatewayView) -> Heard:
        """Take in how a gateway sees the replicas, and visit what it sees otherwise than before."""
        told = [(Key(one.namespace, one.service), one.view) for one in view.services]
        if not self.fault:  # before the first list is through, nobody knows which services there are
            told = [(key, seen) for key, seen in told if self._cache.get(SERVICES, key.namespace, key.name)]
        await self._seen_otherwise(self._views.tell(view.sender, told))
        return Heard.LEADING if self._lease.held() and not self.fault else Heard.STANDBY

    async def wake(self, service: Key) -> None:
        """Visit a service because of what has been measured of it."""
        await self._queue.add(service)

    async def _seen_otherwise(self, services: set[Key]) -> None:
        for service in services:
            await self._queue.add(service)
        if services:
            await self._queue.add(NODES_VISIT, SIGHT_SECONDS)

    # --- running -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """List everything once, then visit. Ends only by being cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_fresh())
            group.create_task(self._forget_views())
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _keep_fresh(self) -> None:
        await self._listing(FIRST_LIST_SECONDS)
        while True:
            self._refresh.clear()
            try:
                await self._observer.refresh()
            except ApiError as error:
                logger.warning("Cannot list the cluster; trying again", extra={"error": str(error)})
                self.fault = self.fault and f"the first list is not through: {error}"
                await asyncio.sleep(LEAD_POLL_SECONDS * 10)
                continue
            self.fault = ""
            await self._wake_all()
            await self._listing(RESYNC_SECONDS)

    async def _listing(self, seconds: float) -> None:
        """Wait until the watch lists, at most so long, and a little more for the lists of the other kinds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._refresh.wait()
            await asyncio.sleep(LISTS_SECONDS)

    async def _forget_views(self) -> None:
        """A gateway that has fallen silent is no witness any more."""
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            await self._seen_otherwise(self._views.forget())

    async def _wake_all(self) -> None:
        await self._queue.add(NODES_VISIT, SIGHT_SECONDS)
        for service in self._observer.services():
            await self._queue.add(key_of(service))
        await self._queue.add(ROUTES_VISIT)

    async def _work(self) -> None:
        while True:
            await self._until_leading()
            key = await self._queue.take()
            waited = self._queue.waited(key)
            self._metrics.queue_wait.observe(waited)
            visit = self._tracer.visit(About(key.namespace, key.name, waited), self._woken.of(key))
            try:
                with visit, logs.about(key=str(key), trace_id=visit.id):
                    await self._visit(key, visit)
            finally:
                await self._queue.done(key)

    async def _until_leading(self) -> None:
        """A standby keeps its picture fresh and its queue coalesced, and writes nothing."""
        while self.fault or not self._lease.held():
            await asyncio.sleep(LEAD_POLL_SECONDS)
            self._queue.open()

    async def _visit(self, key: Key, visit: Visit) -> None:
        started = time.monotonic()
        try:
            outcome = await self._reconcile(key)
            result = await self._settle(key, outcome)
        except NotLeadingError:
            result = "not_leading"
            await self._queue.add(key)
        except Exception as error:  # a fault of ours in one service must not stop the others
            result = "failed"
            self._metrics.reconcile_errors.inc()
            delay = await self._queue.retry(key)
            self._metrics.queue_retries.inc()
            extra = {"retry_seconds": round(delay, 1), "error": str(error)}
            logger.error("A visit failed", extra=extra, exc_info=None if isinstance(error, ApiError) else error)
        seconds = time.monotonic() - started
        self._metrics.visited(seconds, result, visit.id if visit.ended(result) else "")
        logger.debug("A visit has ended", extra={"result": result, "seconds": round(seconds, 4)})

    async def _reconcile(self, key: Key) -> Outcome:
        if key == ROUTES_VISIT:
            services = self._observer.services()
            return await self._carry_out(key, reconcile_routes(services, self._observer.routes(), self._settings), None)
        if key == NODES_VISIT:
            return await self._look_after_nodes()
        with current().phase("observe"):
            observed = await self._observer.observe(key, self._refused.get(key, {}))
        if observed is None:
            self._refused.pop(key, None)
            self._queue.forget(key)
            self._scaler.forget(key)
            return Outcome()
        nodes = self._nodes
        observed = replace(observed, views=self._views.of(key), nodes=nodes.verdicts, lost_nodes=nodes.lost(key))
        now = datetime.now(UTC)
        with current().phase("decide"):
            observed = replace(observed, decision=self._scaler.visit(key, observed, now))
            plan = reconcile(observed, self._settings, now)
        outcome = await self._carry_out(key, plan, observed.service)
        self._scaler.carried_out(key, done=not (outcome.again or outcome.refused))
        if observed.demand is not None:
            current().noted(demand_waiting=observed.demand.waiting)
            self._demands.spoken(key)
        return outcome

    async def _look_after_nodes(self) -> Outcome:
        plan, concerned = await self._nodes.visit()
        self._metrics.count_nodes(self._nodes.verdicts or {})
        for service in concerned:
            await self._queue.add(service)
        outcome = await self._carry_out(NODES_VISIT, plan, None)
        if any(ref.kind == NODES.kind for ref in outcome.refused):
            self._nodes.taints_refused()
        return outcome

    async def _carry_out(self, key: Key, plan: Plan, about: Manifest | None) -> Outcome:
        if plan.contains_actions():
            logger.info("Carrying out a plan", extra={"actions": list(plan.details)})
            current().noted(actions=len(plan.actions))
        with current().phase("apply"):
            outcome = await self._executor.execute(plan, about)
        if plan.again_after is not None:
            # A moment that has come does not press what has just failed: that has a backoff of its own.
            failed = bool(outcome.again or outcome.refused)
            await self._queue.add(key, max(plan.again_after, FAILED_SECONDS if failed else 0.0))
        return outcome

    async def _settle(self, key: Key, outcome: Outcome) -> str:
        """Remember what was refused and choose when to come again. Gives the result's name for the metrics."""
        news = outcome.refused != self._refused.get(key, {})
        if outcome.refused:
            self._refused[key] = outcome.refused
        else:
            self._refused.pop(key, None)
        if news:
            await self._queue.add(key)  # at once: the status must say it
        if outcome.again or outcome.refused:
            await self._queue.retry(key)
            self._metrics.queue_retries.inc()
            return "retry"
        self._queue.forgive(key)
        return "done"
