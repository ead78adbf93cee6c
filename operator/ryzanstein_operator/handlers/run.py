"""The operator's life: start its parts in order, answer probes, end cleanly. Knows every part, decides nothing."""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Final

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.cluster.apply import Executor
from ryzanstein_operator.cluster.cache import Cache, Key
from ryzanstein_operator.cluster.calls import subject_of
from ryzanstein_operator.cluster.client import Call, Cluster
from ryzanstein_operator.cluster.demand import Demands
from ryzanstein_operator.cluster.discovery import wait_for_resources
from ryzanstein_operator.cluster.events import Recorder
from ryzanstein_operator.cluster.heartbeat import STALE_SECONDS, Freshness
from ryzanstein_operator.cluster.lease import Lease
from ryzanstein_operator.cluster.observe import Observer
from ryzanstein_operator.cluster.prometheus import Prometheus
from ryzanstein_operator.cluster.views import Views
from ryzanstein_operator.decide.sizing import Decision
from ryzanstein_operator.doorbell import Doorbell, Heard, Word
from ryzanstein_operator.gateway_view import GatewayView
from ryzanstein_operator.handlers.figures import Figures
from ryzanstein_operator.handlers.loop import Loop
from ryzanstein_operator.handlers.sampling import Sampling
from ryzanstein_operator.handlers.scaler import Scaler
from ryzanstein_operator.handlers.show import Show
from ryzanstein_operator.handlers.watch import NODE_SCOPE, handle_signals, scopes, watch
from ryzanstein_operator.health import Answer, HealthServer, Probes
from ryzanstein_operator.settings import Settings
from ryzanstein_operator.telemetry import Metrics
from ryzanstein_operator.trace import Tracer, current, is_enabled
from ryzanstein_worker import contract

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
STUCK_SECONDS: Final = 15.0
STOP_SECONDS: Final = 3.0
"""For kopf's watchers to end. What is left then is cancelled: SIGTERM to exit takes less than five seconds."""
HEAR_SECONDS: Final = 1.5
_WATCH: Final = "watch"


class Operator:
    """One operator process on one event loop."""

    def __init__(self, cluster: Cluster, settings: Settings, tracer: Tracer | None = None) -> None:
        self._cluster, self._settings, self._tracer = cluster, settings, tracer or Tracer()
        self._metrics, self._freshness, cache = Metrics(), Freshness(), Cache()
        self._lease = Lease(cluster, settings.namespace, settings.lease_name, _identity(settings), self._freshness)
        cluster.may_write, cluster.watcher = self._lease.held, self._called
        recorder = Recorder(cluster, settings.pod_name)
        executor = Executor(cluster, cache, recorder, self._metrics, self._lease.held)
        demands = Demands()
        observer = Observer(cluster, cache, settings, demands.of)
        views = Views()
        scaler = Scaler(settings.namespace, views.idle_seconds, self._decided)
        self._loop = Loop(
            settings, cache, observer, executor, self._lease, self._metrics, demands, views, scaler, self._tracer
        )
        self._prometheus = Prometheus(settings.prometheus) if settings.prometheus else None
        self._sampling = Sampling(self._prometheus, scaler, self._metrics, self._leads, self._loop.wake)
        self._figures = Figures(cache, views, self._lease, self._loop.backlog, self._metrics)
        self._cache = cache
        self.show = Show(cache, recorder.recent, self._lease.identity, self._leads)
        self._event_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._beat = time.monotonic()
        self._waiting_for = "starting"
        self._parts: list[asyncio.Task[None]] = []

    @property
    def probes(self) -> Probes:
        return Probes(self._live, self._ready, self._render)

    def stop(self) -> None:
        """What a signal does."""
        self._stop.set()

    async def run(self) -> None:
        """Until a signal, or until a part ends. Raises what ended it."""
        handle_signals(self._stop)
        self._start("beat", self._keep_beating())
        try:
            discovery = self._start("discovery", wait_for_resources(self._cluster, self._tell))
            await self._first_end()
            if not discovery.done() or self._stop.is_set():
                return
            self._parts.remove(discovery)
            # The order matters: kopf, when it ends, also ends every task that was not there before it.
            self._start("lease", self._lease.run())
            self._start("loop", self._loop.run())
            self._start("figures", self._figures.run())
            self._start("sampling", self._sampling.run())
            await asyncio.sleep(0)
            for scope in scopes(self._settings):
                watching = watch(scope, self._cluster, self._settings, self._loop, self._freshness, self._stop)
                self._start(_WATCH, watching)
            if self._settings.node_health:
                self._start(_WATCH, self._watch_nodes())
            await self._first_end()
        finally:
            await self._end()

    def _start(self, name: str, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._parts.append(asyncio.create_task(part, name=name))
        return self._parts[-1]

    async def _first_end(self) -> None:
        """Wait until one part ends, or for the word to stop. Raises what the part raised."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        done, _ = await asyncio.wait([*self._parts, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done - {stopping}:
            task.result()

    async def _end(self) -> None:
        """Stop visiting, hand the Lease on, then let the watchers go."""
        logger.info("Stopping")
        for part in self._parts:
            if part.get_name() != _WATCH:
                part.cancel()
        self._stop.set()
        await self._lease.release()
        # While the watchers go: a collector that is away must not make it later.
        closing = asyncio.create_task(self._tracer.close(), name="traces")
        _, late = await asyncio.wait(self._parts, timeout=STOP_SECONDS)
        for part in late:
            part.cancel()
        await asyncio.gather(*self._parts, closing, return_exceptions=True)
        if self._prometheus is not None:
            await self._prometheus.close()

    async def _watch_nodes(self) -> None:
        """Once they could be listed: where they may not be read, a watch would fail and fail again."""
        while not self._cache.knows_nodes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._stop.wait()
                    return
        await watch(NODE_SCOPE, self._cluster, self._settings, self._loop, self._freshness, self._stop)

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    # --- asked from the servers' threads ---------------------------------------------------------------

    def _leads(self) -> bool:
        """It holds the Lease and knows what there is."""
        return self._lease.held() and not self._loop.fault

    def _live(self) -> Answer:
        stuck = time.monotonic() - self._beat
        if stuck > STUCK_SECONDS:
            return Answer(f"the event loop has been stuck for {stuck:.0f} s")
        if not self._freshness.fresh():
            age = self._freshness.age()
            return Answer(
                f"a change known for {age:.0f} s has not come through the watch (limit {STALE_SECONDS:.0f} s)"
            )
        return Answer()

    def _ready(self) -> Answer:
        if reason := self._waiting_for or self._loop.fault:
            return Answer(reason)
        if self._lease.held():
            return Answer(detail="leading")
        return Answer(detail=f"standby: {self._lease.fault or f'the Lease is held by {self._lease.holder}'}")

    def hear(self, word: Word) -> Heard:
        """What a gateway says, asked from the doorbell's threads. Raises TimeoutError."""
        heard = self._loop.heard(Key(word.namespace, word.service), word.sender, word.waiting, word.traceparent)
        return asyncio.run_coroutine_threadsafe(heard, self._event_loop).result(HEAR_SECONDS)

    def hear_view(self, view: GatewayView) -> Heard:
        """How a gateway sees the replicas, asked as above. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(self._loop.heard_view(view), self._event_loop).result(HEAR_SECONDS)

    def _render(self, accept: str) -> tuple[bytes, str]:
        self._metrics.leader.set(self._lease.held())
        self._metrics.watch_freshness.set(self._freshness.age())
        return self._metrics.render(accept)

    def _called(self, call: Call) -> None:
        self._metrics.requested(subject_of(call).verb, call.status, call.seconds, again=call.attempt > 1)
        current().called(call)
        extra = {"call": f"{call.method} {call.path}", "status": call.status, "seconds": round(call.seconds, 4)}
        logger.debug("A call to the API server has ended", extra=extra)

    def _decided(self, service: Key, before: int, decision: Decision) -> None:
        active = decision.active in (Reason.METRICS_READ, Reason.AT_ZERO)
        self._metrics.decided(service.namespace, service.name, before, decision.replicas, active=active)

    def _tell(self, reason: str) -> None:
        self._waiting_for = reason


def _identity(settings: Settings) -> str:
    """Under which name the Lease is held.

    The pod's: a container that is restarted in its pod takes its own Lease back at once instead of waiting for it to
    expire. By hand, where no pod name tells two processes apart, each gets a name of its own.
    """
    by_hand = settings.pod_name == Settings.pod_name
    return f"{settings.pod_name}_{uuid.uuid4().hex[:8]}" if by_hand else settings.pod_name


async def serve(settings: Settings, host: str, port: int, demand_port: int = contract.DEMAND_PORT) -> None:
    """Run the operator with its health server until it is told to stop. Raises what ended it."""
    cluster = await Cluster.connect()
    try:
        operator = Operator(cluster, settings, _tracer(settings))
        with contextlib.ExitStack() as servers:
            servers.enter_context(HealthServer(operator.probes, host, port))
            if settings.demand_key_file is not None:
                key = settings.demand_key_file
                bell = Doorbell(operator.hear, operator.hear_view, key, host, demand_port, operator.show)
                servers.enter_context(bell)
            await operator.run()
    finally:
        await cluster.close()


def _tracer(settings: Settings) -> Tracer:
    """Who makes traces: nobody, unless the standard variables ask for them."""
    if not is_enabled(os.environ):
        return Tracer()
    from ryzanstein_operator.tracing import Tracing

    return Tracing(settings.pod_name, os.environ)
