"""What the engine tells of itself, as metrics of the moment at which a scraper asks. Knows the engine's accounts and
names; no request, no content. Every number comes from shared memory or from the engine's latest report, so that a
scrape asks nobody and waits for nobody.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from ryzanstein_worker import contract
from ryzanstein_worker.engine.ledger import PHASES, STAGES, STEP_SECONDS, STEP_TOKENS, Distribution, RankNumbers
from ryzanstein_worker.parallel.meter import COLLECTIVES

_MODEL = contract.METRIC_MODEL


class Stats(Protocol):
    """What the engine tells of itself at a moment; totals count since its start."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_cache_usage(self) -> float: ...
    @property
    def kv_blocks_free(self) -> int: ...
    @property
    def prefix_queries(self) -> int: ...
    @property
    def prefix_hits(self) -> int: ...
    @property
    def preemptions(self) -> int: ...


@dataclass(frozen=True)
class WorkerInfo:
    """Facts that stay as they are for the worker's life. Each is the label of its name."""

    version: str
    torch_version: str
    model_type: str
    device: str
    dtype: str
    tensor_parallel_size: str
    nnodes: str
    node_rank: str


class EngineCollector(Collector):
    """The scheduler's numbers: rank 0's alone has them."""

    def __init__(self, model_name: str, stats: Callable[[], Stats], kv_blocks: int) -> None:
        self._model_name = model_name
        self._stats = stats
        self._kv_blocks = kv_blocks

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        gauges = (
            (contract.NUM_REQUESTS_RUNNING, "Requests in the running batch now.", stats.running),
            (contract.NUM_REQUESTS_WAITING, "Requests in the engine that wait to be scheduled now.", stats.waiting),
            (contract.KV_CACHE_USAGE_PERC, "Share of the KV blocks that requests hold, 0 to 1.", stats.kv_cache_usage),
            (
                contract.KV_BLOCKS,
                "KV blocks there are; each holds --block-size tokens' keys and values.",
                self._kv_blocks,
            ),
            (
                contract.KV_BLOCKS_FREE,
                "KV blocks that no request holds, those included that the prefix cache keeps until they are needed.",
                stats.kv_blocks_free,
            ),
        )
        counters = (
            (
                contract.NUM_PREEMPTIONS,
                "Times that a request lost its KV blocks to an older one and had to be computed anew.",
                stats.preemptions,
            ),
            (contract.PREFIX_CACHE_QUERIES, "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            (
                contract.PREFIX_CACHE_HITS,
                "Prompt tokens found in the prefix cache and not computed.",
                stats.prefix_hits,
            ),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=[_MODEL])
            gauge.add_metric([self._model_name], value)
            yield gauge
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=[_MODEL])
            counter.add_metric([self._model_name], value)
            yield counter


class StepCollector(Collector):
    """The engine's steps, as rank 0 measured them: the others walk beside it."""

    def __init__(self, model_name: str, numbers: Callable[[], Sequence[RankNumbers]]) -> None:
        self._model_name = model_name
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        first = [numbers for numbers in self._numbers() if numbers.rank == 0]
        times = HistogramMetricFamily(
            contract.ENGINE_STEP_TIME,
            "Time that one step of the engine takes rank 0, in seconds, from its batch to its tokens. phase: prefill "
            "(parts of prompts alone), decode (one token more of each request), mixed.",
            labels=[_MODEL, "phase"],
        )
        tokens = HistogramMetricFamily(
            contract.ENGINE_STEP_TOKENS,
            "Tokens that one step of the engine computes, of prompts and answers together; vLLM calls it "
            "iteration_tokens_total.",
            labels=[_MODEL],
        )
        for numbers in first:
            for phase in PHASES:
                _add(times, [self._model_name, phase], STEP_SECONDS, numbers.steps[phase])
            _add(tokens, [self._model_name], STEP_TOKENS, numbers.step_tokens)
        yield times
        yield tokens


class RankCollector(Collector):
    """What each rank of this pod measures of its own."""

    def __init__(self, model_name: str, numbers: Callable[[], Sequence[RankNumbers]]) -> None:
        self._model_name = model_name
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        ranks = self._numbers()
        yield self._collectives(ranks)
        load = GaugeMetricFamily(
            contract.MODEL_LOAD,
            "Seconds that a stage of the start took, of the slowest rank of the pod. stage: process (until the rank's "
            "program runs), group (meeting the other ranks), weights, profile (measuring what memory is left), "
            "kv_cache (taking it), warm_up (first steps).",
            labels=[_MODEL, "stage"],
        )
        for stage in STAGES:
            if seconds := [numbers.load[stage] for numbers in ranks if stage in numbers.load]:
                load.add_metric([self._model_name, stage], max(seconds))
        yield load

    def _collectives(self, ranks: Sequence[RankNumbers]) -> Metric:
        summary = SummaryMetricFamily(
            contract.COLLECTIVE_TIME,
            "Seconds that a rank of this pod spent in collectives, and how many there were; none where there is one "
            "rank. op: all_reduce, gather, broadcast. Waiting for the other ranks is in it, so the rank with the "
            "least is the one that the others wait for. On CUDA this is the time to hand the work to the device.",
            labels=[_MODEL, "rank", "op"],
        )
        for numbers in ranks:
            for op in COLLECTIVES:
                if (spent := numbers.collectives[op]).count:
                    summary.add_metric([self._model_name, str(numbers.rank), op], spent.count, spent.seconds)
        return summary


class HeartbeatCollector(Collector):
    """Each rank's signs of life. `ages`: seconds by rank."""

    def __init__(self, model_name: str, ages: Callable[[], Sequence[tuple[int, float]]]) -> None:
        self._model_name = model_name
        self._ages = ages

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(
            contract.ENGINE_HEARTBEAT_AGE,
            "Seconds since a rank's latest sign of life. Every layer of every step gives one, and an idle rank one a "
            "second; past --hang-timeout-seconds the group is ended. A group's first pod shows all its ranks, "
            "another one its own.",
            labels=[_MODEL, "rank"],
        )
        for rank, age in self._ages():
            gauge.add_metric([self._model_name, str(rank)], age)
        yield gauge


class InfoCollector(Collector):
    """The worker's facts."""

    def __init__(self, model_name: str, info: WorkerInfo) -> None:
        self._labels = {_MODEL: model_name, **asdict(info)}

    def collect(self) -> Iterator[Metric]:
        text = "1, with what the worker is made of as labels; there is none until the model has loaded."
        gauge = GaugeMetricFamily(contract.WORKER_INFO, text, labels=list(self._labels))
        gauge.add_metric(list(self._labels.values()), 1)
        yield gauge


class AcceleratorCollector(Collector):
    """Whether the accelerators work, where it is known."""

    def __init__(self, model_name: str, healthy: Callable[[], bool | None]) -> None:
        self._model_name = model_name
        self._healthy = healthy

    def collect(self) -> Iterator[Metric]:
        text = "1, and 0 once an accelerator of this pod cannot be used any more; none where that is not known."
        gauge = GaugeMetricFamily(contract.ACCELERATOR_HEALTHY, text, labels=[_MODEL])
        if (healthy := self._healthy()) is not None:
            gauge.add_metric([self._model_name], float(healthy))
            yield gauge


def _add(family: HistogramMetricFamily, labels: list[str], bounds: Sequence[float], found: Distribution) -> None:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, accumulate(found.buckets), strict=True)), found.total)
