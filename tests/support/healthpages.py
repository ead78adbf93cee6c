"""The health port of a worker without its engine: the real server and its pages, over an engine that tells what it is
told to."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ryzanstein_worker.engine.status import EngineHealth, EngineLoad, RankHealth
from ryzanstein_worker.server.health import Capacity, HealthServer, Probes
from ryzanstein_worker.telemetry.exposition import Exposition
from ryzanstein_worker.telemetry.metrics import ServerMetrics


class ToldEngine:
    """What the pages read of an engine."""

    epoch = "e1"
    prefix_queries = prefix_hits = preemptions = kv_blocks_free = 0

    def __init__(self, ranks: int, nodes: int) -> None:
        self.running = self.waiting = 0
        self.kv_cache_usage = 0.0
        self.silent: dict[int, float] = {}
        self._ranks, self._nodes = ranks, nodes

    def health(self) -> EngineHealth:
        each = self._ranks // self._nodes
        ranks = [
            RankHealth(rank=rank, state="idle", age_seconds=self.silent.get(rank, 0.1), beats=1, node_rank=rank // each)
            for rank in range(self._ranks)
        ]
        return EngineHealth(True, "", tuple(ranks))

    def load(self) -> EngineLoad:
        return EngineLoad(self.running, self.waiting, self.kv_cache_usage)


class HealthPages:
    """One worker's pages. `generate` moves its counters as requests would; `before_metrics` is called for each look at
    them."""

    def __init__(self, ranks: int, nodes: int) -> None:
        self.engine = ToldEngine(ranks, nodes)
        self.probes = Probes(Capacity(8, 64))
        self.probes.engine, self.probes.phase = self.engine, "serving"
        self.metrics = ServerMetrics("chat")
        self.metrics.watch(lambda: self.engine)
        self.before_metrics: Callable[[], None] = lambda: None
        self.server = HealthServer("127.0.0.1", 0, self.probes, self._expose)

    @property
    def port(self) -> int:
        return self.server.port

    def _expose(self, accept: str = "") -> Exposition:
        self.before_metrics()
        return self.metrics.expose(accept)

    def generate(self, tokens: int, *, first_token_seconds: float = 0.05) -> None:
        """A request that gave `tokens` tokens, the first of them after that time."""
        with self.metrics.request(time.monotonic() - first_token_seconds, 4) as timer:
            timer.tokens(tokens)
            timer.finish("stop")


@contextlib.contextmanager
def health_pages(ranks: int = 1, nodes: int = 1) -> Iterator[HealthPages]:
    pages = HealthPages(ranks, nodes)
    try:
        yield pages
    finally:
        threading.Thread(target=pages.server.close, daemon=True).start()  # takes the half second of its poll
