"""The worker's Prometheus metrics: vLLM's suffixes and timing rules. Knows numbers and clocks, no requests' content.

All times are of the monotonic clock, which every process of the machine shares. Nothing is registered at import:
each `ServerMetrics` has a registry of its own. What a client sends makes no label: every label's value is one of a
fixed list. Where this differs from vLLM the help says so.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from ryzanstein_worker import contract
from ryzanstein_worker.engine.ledger import RankNumbers
from ryzanstein_worker.engine.request import StepPart
from ryzanstein_worker.telemetry import buckets, collectors, tracing
from ryzanstein_worker.telemetry.collectors import Stats, WorkerInfo
from ryzanstein_worker.telemetry.engine_spans import ChoiceTrace
from ryzanstein_worker.telemetry.exposition import Exposition, expose

__all__ = ["ABORTED_BY", "FINISHED", "REFUSED", "RequestTimer", "ServerMetrics", "Stats", "WorkerInfo"]

Refused = Literal[
    "draining",
    "overloaded",
    "quarantined",
    "too_long",
    "too_large",
    "too_slow",
    "unknown_model",
    "invalid",
    "failed",
]
AbortedBy = Literal["client", "crash", "drain"]

_log = logging.getLogger(__name__)

FINISHED: Final = ("stop", "length", "abort", "error")
REFUSED: Final[tuple[Refused, ...]] = get_args(Refused)
ABORTED_BY: Final[tuple[AbortedBy, ...]] = get_args(AbortedBy)


class ServerMetrics:
    """Counters and histograms of one served model. Thread-safe, as prometheus_client is."""

    def __init__(self, model_name: str, *, serves: bool = True) -> None:
        """`serves`: whether requests come here; else there is nothing to be told of any."""
        # A second series for each counter and histogram, which no scraper of ours reads. Of the library, for good.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.model_name = model_name
        if serves:
            self._add_counters()
            self._add_moments()
            self._add_sizes()

    def _add_counters(self) -> None:
        self._prompt = self._counter(
            contract.PROMPT_TOKENS,
            "Prompt tokens of requests that came to their first token, those found in the prefix cache included.",
        )
        self._generated = self._counter(contract.GENERATION_TOKENS, "Tokens generated.")
        self._finished = self._family(
            contract.REQUEST_SUCCESS,
            "Requests that ended, each choice of an answer as one, by finished_reason: stop, length, abort (the client "
            "left, or the engine was lost), error.",
            contract.METRIC_FINISHED_REASON,
            FINISHED,
        )
        self._aborted = self._family(
            contract.REQUESTS_ABORTED,
            "Requests that ended before their answer was whole, by cause: client (it left), crash (the engine was "
            "lost), drain (the time to drain was over). The last two can go on in another replica.",
            "cause",
            ABORTED_BY,
        )
        self._refused = self._family(
            contract.REQUESTS_REFUSED,
            "Requests that were answered with an error before anything of them ran, by reason: draining and overloaded "
            "(another replica may take them), quarantined (two crashes while it ran), too_long (for the context), "
            "too_large and too_slow (their body), unknown_model, invalid, failed (a fault of the server's).",
            "reason",
            REFUSED,
        )

    def _add_moments(self) -> None:
        self._first_token = self._histogram(
            contract.TIME_TO_FIRST_TOKEN, "Seconds from a request's arrival to its first token.", buckets.FIRST_TOKEN
        )
        self._inter_token = self._histogram(
            contract.INTER_TOKEN_LATENCY,
            "Seconds from one token to the next; tokens that came together share the time.",
            buckets.INTER_TOKEN,
        )
        self._e2e = self._histogram(
            contract.E2E_REQUEST_LATENCY,
            "Seconds from a request's arrival to its last token. Of requests that ended by stop or length, here and in "
            "the histograms below; vLLM counts aborted ones too.",
            buckets.REQUEST,
        )
        self._queue = self._histogram(
            contract.REQUEST_QUEUE_TIME, "Seconds from a request's arrival to its first step.", buckets.REQUEST
        )
        self._prefill = self._histogram(
            contract.REQUEST_PREFILL_TIME, "Seconds from a request's first step to its first token.", buckets.REQUEST
        )
        self._decode = self._histogram(
            contract.REQUEST_DECODE_TIME, "Seconds from a request's first token to its last.", buckets.REQUEST
        )
        self._per_token = self._histogram(
            contract.REQUEST_TIME_PER_OUTPUT_TOKEN,
            "A request's mean of seconds from token to token: of each request once, where the inter-token latency "
            "has each token.",
            buckets.INTER_TOKEN,
        )

    def _add_sizes(self) -> None:
        self._prompt_size = self._histogram(
            contract.REQUEST_PROMPT_TOKENS, "A request's prompt tokens, cached ones included.", buckets.TOKENS
        )
        self._answer_size = self._histogram(
            contract.REQUEST_GENERATION_TOKENS,
            "Tokens generated for a request here; those that another replica had generated before are not in it.",
            buckets.TOKENS,
        )

    def watch(self, stats: Callable[[], Stats], kv_blocks: int = 0) -> None:
        """Show the scheduler's numbers as they are at each scrape."""
        self.registry.register(collectors.EngineCollector(self.model_name, stats, kv_blocks))

    def watch_steps(self, numbers: Callable[[], Sequence[RankNumbers]]) -> None:
        """Show the engine's steps; where rank 0 is of this pod."""
        self.registry.register(collectors.StepCollector(self.model_name, numbers))

    def watch_ranks(
        self, numbers: Callable[[], Sequence[RankNumbers]], ages: Callable[[], Sequence[tuple[int, float]]]
    ) -> None:
        """Show what the ranks of this pod measure, and the signs of life of all that it knows of."""
        self.registry.register(collectors.RankCollector(self.model_name, numbers))
        self.registry.register(collectors.HeartbeatCollector(self.model_name, ages))

    def watch_accelerator(self, healthy: Callable[[], bool | None]) -> None:
        """Show whether the accelerators work, where it is known."""
        self.registry.register(collectors.AcceleratorCollector(self.model_name, healthy))

    def show(self, info: WorkerInfo) -> None:
        """Show what the worker is made of."""
        self.registry.register(collectors.InfoCollector(self.model_name, info))

    def expose(self, accept: str = "") -> Exposition:
        """The page that a scraper with this Accept header gets. From any thread."""
        return expose(self.registry, accept)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return self.expose().body

    def refused(self, reason: Refused) -> None:
        """A request was answered with an error, and nothing of it ran."""
        self._refused.labels(self.model_name, reason).inc()

    @contextmanager
    def request(self, arrival: float, num_prompt_tokens: int) -> "Iterator[RequestTimer]":
        """Times one request; leaving without `finish` means that its client has left."""
        request = tracing.current()
        trace = request.choice(arrival, num_prompt_tokens) if request else None
        timer = RequestTimer(self, arrival, num_prompt_tokens, trace)
        try:
            yield timer
        finally:
            timer.abort("client")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, [contract.METRIC_MODEL], registry=self.registry).labels(self.model_name)

    def _family(self, name: str, text: str, label: str, values: Sequence[str]) -> Counter:
        """With every series from the start: a rate over one that has just come to be misses its first count."""
        counter = Counter(name, text, [contract.METRIC_MODEL, label], registry=self.registry)
        for value in values:
            counter.labels(self.model_name, value)
        return counter

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, [contract.METRIC_MODEL], registry=self.registry, buckets=bounds)
        return histogram.labels(self.model_name)


class RequestTimer:
    """One request's moments, put into the histograms as they are known, and into its trace if it has one. What a
    sampled trace observes carries its id as an exemplar."""

    def __init__(
        self,
        metrics: ServerMetrics,
        arrival: float,
        num_prompt_tokens: int,
        trace: ChoiceTrace | None = None,
    ) -> None:
        self._metrics = metrics
        self._trace = trace
        self._exemplar = {"trace_id": trace.trace_id} if trace is not None and trace.sampled else None
        self._arrival = arrival
        self._num_prompt_tokens = num_prompt_tokens
        self._tokens = self._first_tokens = 0
        self._first: float | None = None
        self._last: float | None = None
        self._done = False

    @property
    def sampled(self) -> bool:
        """Whether somebody wants to know which steps the request takes part in."""
        return self._exemplar is not None

    def tokens(self, count: int, first_scheduled: float | None = None, steps: Sequence[StepPart] = ()) -> None:
        """`count` new tokens are here now."""
        if count == 0:
            return
        now = time.monotonic()
        if self._trace is not None:
            self._trace.step(now, count, first_scheduled, steps)
        own, exemplar = self._metrics, self._exemplar
        own._generated.inc(count)
        self._tokens += count
        if self._last is None:
            self._first, self._first_tokens = now, count
            own._prompt.inc(self._num_prompt_tokens)
            own._first_token.observe(now - self._arrival, exemplar)
            if first_scheduled is not None:
                own._queue.observe(max(0.0, first_scheduled - self._arrival), exemplar)
                own._prefill.observe(max(0.0, now - first_scheduled), exemplar)
        else:
            own._inter_token.observe((now - self._last) / count, exemplar)
        self._last = now

    def finish(self, reason: str) -> None:
        """The request ended for this reason. The first call of any counts, later ones change nothing."""
        if self._done:
            return
        self._done = True
        if self._trace is not None:
            self._trace.finish(reason)
        own = self._metrics
        own._finished.labels(own.model_name, reason).inc()
        if _log.isEnabledFor(logging.DEBUG):
            ms = round((time.monotonic() - self._arrival) * 1000, 3)
            about = {"reason": reason, "prompt_tokens": self._num_prompt_tokens, "tokens": self._tokens, "ms": ms}
            _log.debug("a request has ended", extra=about)
        if reason in ("stop", "length") and self._first is not None and self._last is not None:
            self._observe_whole(self._first, self._last)

    def abort(self, cause: AbortedBy) -> None:
        """The request ended before its answer was whole."""
        if not self._done:
            self._metrics._aborted.labels(self._metrics.model_name, cause).inc()
            self.finish("abort")

    def refuse(self) -> None:
        """The engine did not take the request: it counts among the refused, which are told of elsewhere."""
        self._done = True

    def _observe_whole(self, first: float, last: float) -> None:
        own, exemplar = self._metrics, self._exemplar
        own._e2e.observe(last - self._arrival, exemplar)
        own._decode.observe(last - first, exemplar)
        own._prompt_size.observe(self._num_prompt_tokens, exemplar)
        own._answer_size.observe(self._tokens, exemplar)
        if (more := self._tokens - self._first_tokens) > 0:
            own._per_token.observe((last - first) / more, exemplar)
