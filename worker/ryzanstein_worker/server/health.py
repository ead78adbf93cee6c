"""Probes and metrics on a port and a thread of their own, so that they answer while the event loop is busy.

Live: the engine's ranks show signs of life (read from shared memory; a long prefill is life, a queue is no death).
Ready: live, warmed up, not draining, on accelerators that work (a restart would find them as they are, so their fault
is no death). Status: the same and the load, for the gateway, which asks each second and wants
to know all at once; it is 200 as long as the process answers. Knows no requests.
"""

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Protocol

from ryzanstein_worker.contract import HEALTH_LIVE, HEALTH_READY, HEALTH_STATUS, METRICS
from ryzanstein_worker.engine.status import EngineHealth, EngineLoad
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.telemetry.exposition import Exposition

LOOP_TICK_SECONDS = 0.5
LOOP_SECONDS = 60.0
"""An event loop that stands still for so long is dead. Far beyond any work of one turn; the gateway sees it earlier."""

Phase = Literal["loading", "serving", "draining"]

_log = logging.getLogger(__name__)


class HealthSource(Protocol):
    """The part of the engine that the probes need. Called from any thread."""

    @property
    def epoch(self) -> str: ...
    def health(self) -> EngineHealth: ...
    def load(self) -> EngineLoad: ...


@dataclass(frozen=True)
class Capacity:
    """What the worker takes at most, as it was configured."""

    max_num_seqs: int = 0
    max_queued_requests: int = 0


@dataclass(frozen=True)
class RankStatus:
    """One rank of the group, of this pod or another."""

    rank: int
    node_rank: int  # the place in the group of the pod that it runs in
    state: str  # loading | idle | step
    age_seconds: float  # since its latest sign of life


@dataclass(frozen=True)
class Status:
    """The status page, field by field."""

    phase: Phase
    ready: bool
    reason: str
    epoch: str  # of this start of the ranks; "" while they start
    beat_age: float  # seconds since the latest sign of life, of the rank or the server whose is oldest; 0 while loading
    running: int
    waiting: int
    kv_cache_usage: float  # 0..1
    max_num_seqs: int
    max_queued_requests: int
    accelerator_fault: str  # a sentence; "" where none is known
    nnodes: int  # pods of the group
    ranks: tuple[RankStatus, ...]  # of all its pods, on the first; of its own on another; none while they start


@dataclass(frozen=True)
class Verdict:
    """A probe's answer: good is 200, else 503; the reason is a sentence."""

    good: bool
    reason: str
    body: bytes


class Probes:
    """What live and ready say. Written by the event loop's thread, read by any; each field is one reference."""

    def __init__(
        self, capacity: Capacity | None = None, *, nnodes: int = 1, accelerator_fault: Callable[[], str] = str
    ) -> None:
        self._capacity = capacity or Capacity()
        self._nnodes = nnodes
        self._accelerator_fault = accelerator_fault
        self._turned: float | None = None  # time.monotonic() of the event loop's latest turn
        self.phase: Phase = "loading"
        self.engine: HealthSource | None = None

    async def follow_loop(self) -> None:
        """Note each turn of the event loop this runs on, for ever: one that stands still answers no request."""
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(LOOP_TICK_SECONDS)

    def live(self) -> Verdict:
        """Whether the process should be left alone. A process that loads is alive; Engine.start has its own limit."""
        engine = self.engine
        if engine is None:
            return _verdict(True, "The model is loading.", self.phase)
        health, fault = self._health(engine), self._accelerator_fault()
        return _verdict(health.alive or bool(fault), fault or health.reason, self.phase, health)

    def ready(self) -> Verdict:
        """Whether new requests should come here."""
        engine, phase = self.engine, self.phase
        if fault := self._accelerator_fault():
            return _verdict(False, fault, phase, engine.health() if engine is not None else None)
        if phase == "loading" or engine is None:
            return _verdict(False, "The model is loading.", phase)
        health = self._health(engine)
        if health.alive and phase == "draining":
            return _verdict(False, "The worker is draining.", phase, health)
        return _verdict(health.alive, health.reason, phase, health)

    def status(self) -> Status:
        """All that the gateway wants to know, from shared memory."""
        engine, ready = self.engine, self.ready()
        load = engine.load() if engine is not None else EngineLoad(0, 0, 0.0)
        ranks = engine.health().ranks if engine is not None else ()
        ages = [rank.age_seconds for rank in ranks] + [self._loop_age()] if engine is not None else []
        return Status(
            phase=self.phase,
            ready=ready.good,
            reason=ready.reason,
            epoch=engine.epoch if engine is not None else "",
            beat_age=round(max(ages, default=0.0), 3),
            running=load.running,
            waiting=load.waiting,
            kv_cache_usage=load.kv_cache_usage,
            max_num_seqs=self._capacity.max_num_seqs,
            max_queued_requests=self._capacity.max_queued_requests,
            accelerator_fault=self._accelerator_fault(),
            nnodes=self._nnodes,
            ranks=tuple(RankStatus(r.rank, r.node_rank, r.state, round(r.age_seconds, 3)) for r in ranks),
        )

    def _loop_age(self) -> float:
        return 0.0 if self._turned is None else time.monotonic() - self._turned

    def _health(self, engine: HealthSource) -> EngineHealth:
        """The engine's, unless the server before it is dead: then nobody is served however well it runs."""
        health, age = engine.health(), self._loop_age()
        if health.alive and age > LOOP_SECONDS:
            return replace(health, alive=False, reason=f"the server's event loop has stood still for {age:.0f} s")
        return health


def _verdict(good: bool, reason: str, phase: Phase, health: EngineHealth | None = None) -> Verdict:
    ranks = [asdict(rank) for rank in health.ranks] if health is not None else []
    return Verdict(good, reason, json.dumps({"ok": good, "phase": phase, "reason": reason, "ranks": ranks}).encode())


@dataclass(frozen=True)
class Page:
    """One answer of the health port."""

    status: int
    content_type: str
    body: bytes


def page(path: str, probes: Probes, metrics: Callable[[str], Exposition], accept: str = "") -> Page | None:
    """The page at a path, for the health port and the API port alike; None where there is none. `metrics` are given
    the request's Accept header."""
    if path == METRICS:
        shown = metrics(accept)
        return Page(200, shown.content_type, shown.body)
    if path in (HEALTH_LIVE, HEALTH_READY):
        verdict = probes.live() if path == HEALTH_LIVE else probes.ready()
        return Page(200 if verdict.good else 503, "application/json", verdict.body)
    if path == HEALTH_STATUS:
        return Page(200, "application/json", json.dumps(asdict(probes.status())).encode())
    return None


class HealthServer:
    """Serves the pages from a thread of its own, from construction until `close`.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, probes: Probes, metrics: Callable[[str], Exposition]) -> None:
        class Handler(_Handler):
            def render(self) -> Page | None:
                return page(self.path.partition("?")[0], probes, metrics, self.headers.get("accept", ""))

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"Cannot listen for probes on {host} port {port}: {error.strerror}.") from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that has hung up meanwhile, as on a process that was frozen, is no fault of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.exception("an answer failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a client to send its request, so that idle connections hold no threads
    server_version = "ryzanstein"
    sys_version = ""

    def render(self) -> Page | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        try:
            answer = self.render() or Page(404, "text/plain", b"not found\n")
        except Exception:
            _log.exception("a page of the health port failed")
            answer = Page(500, "text/plain", b"failed\n")
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Probes come every few seconds and say nothing new."""
