"""Exemplars: for each bucket of some histograms the last traced request that fell into it.

prometheus_client drops them where several processes count together (its values in mapped files hold none), so they are
kept here and put into the page as it is made: the same way for one process and for several, whose parent is sent what
is new. Knows names of metrics and ids of traces; only a sampled trace is noted, for no other can be looked up.
"""

import bisect
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as Shown
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from ryzanstein_gateway.metrics import BUCKETS

LABEL: Final = "trace_id"
"""As Grafana looks for it."""
MOST_SENT: Final = 1000
"""At a time; the rest with the next report."""
_BOUNDS: Final = tuple(floatToGoString(bound) for bound in (*BUCKETS, float("inf")))  # type: ignore[no-untyped-call]


class Exemplar(msgspec.Struct, frozen=True, array_like=True):
    """One request. `le`: the bucket's bound as Prometheus writes it; `at`: Unix seconds."""

    metric: str
    model: str
    le: str
    value: float
    trace_id: str
    at: float

    @property
    def place(self) -> tuple[str, str, str]:
        """Its bucket."""
        return self.metric, self.model, self.le


class Exemplars:
    """The newest of each bucket. Owned by the event loop; the page's thread only looks up."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], Exemplar] = {}
        self._new: dict[tuple[str, str, str], Exemplar] = {}

    def note(self, metric: str, model: str, value: float, trace_id: str) -> None:
        """A traced request was observed. `metric` has metrics.BUCKETS and the one label `model`."""
        le = _BOUNDS[bisect.bisect_left(BUCKETS, value)]
        one = Exemplar(metric, model, le, value, trace_id, time.time())
        self._kept[one.place] = self._new[one.place] = one

    def take_new(self) -> tuple[Exemplar, ...]:
        """Those since the last call, for the parent."""
        sent = list(self._new.values())[:MOST_SENT]
        for one in sent:
            del self._new[one.place]
        return tuple(sent)

    def add(self, others: Iterable[Exemplar]) -> None:
        """What a member of several has sent."""
        for one in others:
            before = self._kept.get(one.place)
            if before is None or before.at <= one.at:
                self._kept[one.place] = one

    def find(self, metric: str, labels: dict[str, str]) -> Shown | None:
        """The one of a bucket's sample."""
        one = self._kept.get((metric, labels.get("model", ""), labels.get("le", "")))
        return None if one is None else Shown({LABEL: one.trace_id}, one.value, one.at)


@dataclass(frozen=True, slots=True)
class Illustrated(Collector):
    """A registry, its histograms with exemplars. Only the OpenMetrics format shows them."""

    collector: Collector
    exemplars: Exemplars

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        for metric in self.collector.collect():
            if metric.type == "histogram":
                metric.samples = [self._with(metric.name, sample) for sample in metric.samples]
            yield metric

    def _with(self, metric: str, sample: Sample) -> Sample:
        if not sample.name.endswith("_bucket"):
            return sample
        found = self.exemplars.find(metric, sample.labels)
        return sample if found is None else sample._replace(exemplar=found)
