"""The worker's Prometheus metrics: vLLM's suffixes and timing rules. Knows numbers and clocks, no requests' content.

All times are of the monotonic clock, which every process of the machine shares. Nothing is registered at import:
each `ServerMetrics` has a registry of its own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ryzanstein_worker import contract
from ryzanstein_worker.telemetry import tracing

_FIRST_TOKEN_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
_INTER_TOKEN_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
)
_REQUEST_BUCKETS = (
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
)


class Stats(Protocol):
    """What the engine tells of itself at a moment; totals count since its start."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_cache_usage(self) -> float: ...
    @property
    def prefix_queries(self) -> int: ...
    @property
    def prefix_hits(self) -> int: ...
    @property
    def preemptions(self) -> int: ...


class ServerMetrics:
    """Counters and histograms of one served model. Thread-safe, as prometheus_client is."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.model_name = model_name
        self._prompt = self._counter(contract.PROMPT_TOKENS, "Prompt tokens of requests that were started.")
        self._generated = self._counter(contract.GENERATION_TOKENS, "Tokens generated.")
        self._finished = Counter(
            contract.REQUEST_SUCCESS,
            "Requests that ended, by the reason.",
            [contract.METRIC_MODEL, contract.METRIC_FINISHED_REASON],
            registry=self.registry,
        )
        self._first_token = self._histogram(
            contract.TIME_TO_FIRST_TOKEN, "Arrival to first token.", _FIRST_TOKEN_BUCKETS
        )
        self._inter_token = self._histogram(contract.INTER_TOKEN_LATENCY, "Token to token.", _INTER_TOKEN_BUCKETS)
        self._e2e = self._histogram(contract.E2E_REQUEST_LATENCY, "Arrival to last token.", _REQUEST_BUCKETS)
        self._queue = self._histogram(contract.REQUEST_QUEUE_TIME, "Arrival to first scheduling.", _REQUEST_BUCKETS)
        self._prefill = self._histogram(
            contract.REQUEST_PREFILL_TIME, "First scheduling to first token.", _REQUEST_BUCKETS
        )
        self._decode = self._histogram(contract.REQUEST_DECODE_TIME, "First token to last token.", _REQUEST_BUCKETS)
        for reason in ("stop", "length", "abort", "error"):
            self._finished.labels(model_name, reason)

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Show the engine's own numbers as they are at each scrape."""
        self.registry.register(_EngineCollector(self.model_name, stats))

    def watch_accelerator(self, healthy: Callable[[], bool | None]) -> None:
        """Show whether the accelerators work, where it is known."""
        self.registry.register(_AcceleratorCollector(self.model_name, healthy))

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    @contextmanager
    def request(self, arrival: float, num_prompt_tokens: int) -> "Iterator[RequestTimer]":
        """Times one request; leaving without `finish` counts it as aborted."""
        self._prompt.inc(num_prompt_tokens)
        request = tracing.current()
        timer = RequestTimer(self, arrival, request.choice(arrival, num_prompt_tokens) if request else None)
        try:
            yield timer
        finally:
            timer.finish("abort")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, [contract.METRIC_MODEL], registry=self.registry).labels(self.model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, [contract.METRIC_MODEL], registry=self.registry, buckets=buckets)
        return histogram.labels(self.model_name)


class RequestTimer:
    """One request's moments, put into the histograms as they are known, and into its trace if it has one."""

    def __init__(self, metrics: ServerMetrics, arrival: float, trace: tracing.ChoiceTrace | None = None) -> None:
        self._metrics = metrics
        self._trace = trace
        self._arrival = arrival
        self._first: float | None = None
        self._last: float | None = None
        self._done = False

    def tokens(self, count: int, first_scheduled: float | None = None) -> None:
        """`count` new tokens are here now."""
        if count == 0:
            return
        now = time.monotonic()
        if self._trace is not None:
            self._trace.step(now, count, first_scheduled)
        own = self._metrics
        own._generated.inc(count)
        if self._last is None:
            self._first = now
            own._first_token.observe(now - self._arrival)
            if first_scheduled is not None:
                own._queue.observe(max(0.0, first_scheduled - self._arrival))
                own._prefill.observe(max(0.0, now - first_scheduled))
        else:
            own._inter_token.observe((now - self._last) / count)
        self._last = now

    def finish(self, reason: str) -> None:
        """The request ended for this reason. The first call counts, later ones change nothing."""
        if self._done:
            return
        self._done = True
        if self._trace is not None:
            self._trace.finish(reason)
        own = self._metrics
        own._finished.labels(own.model_name, reason).inc()
        if reason in ("stop", "length") and self._first is not None and self._last is not None:
            own._e2e.observe(self._last - self._arrival)
            own._decode.observe(self._last - self._first)


class _EngineCollector(Collector):
    def __init__(self, model_name: str, stats: Callable[[], Stats]) -> None:
        self._model_name = model_name
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        gauges = (
            (contract.NUM_REQUESTS_RUNNING, "Requests in the running batch.", stats.running),
            (contract.NUM_REQUESTS_WAITING, "Requests waiting to be scheduled.", stats.waiting),
            (contract.KV_CACHE_USAGE_PERC, "Share of the KV blocks in use, 0 to 1.", stats.kv_cache_usage),
        )
        counters = (
            (contract.NUM_PREEMPTIONS, "Requests that lost their blocks and were recomputed.", stats.preemptions),
            (contract.PREFIX_CACHE_QUERIES, "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            (contract.PREFIX_CACHE_HITS, "Prompt tokens found in the prefix cache.", stats.prefix_hits),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=[contract.METRIC_MODEL])
            gauge.add_metric([self._model_name], value)
            yield gauge
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=[contract.METRIC_MODEL])
            counter.add_metric([self._model_name], value)
            yield counter


class _AcceleratorCollector(Collector):
    def __init__(self, model_name: str, healthy: Callable[[], bool | None]) -> None:
        self._model_name = model_name
        self._healthy = healthy

    def collect(self) -> Iterator[Metric]:
        healthy = self._healthy()
        if healthy is not None:
            text = "0 once an accelerator of this pod cannot be used any more."
            gauge = GaugeMetricFamily(contract.ACCELERATOR_HEALTHY, text, labels=[contract.METRIC_MODEL])
            gauge.add_metric([self._model_name], float(healthy))
            yield gauge
