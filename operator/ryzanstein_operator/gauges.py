"""Gauges whose series are replaced all at once. Knows Prometheus' data model; knows no metric of ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

RowT = TypeVar("RowT", bound=tuple[str, ...])


class GaugeTable(Collector):
    """One gauge, a row for each set of label values.

    A scrape comes on a thread of its own. It gets the rows of one look at everything or of the next, never some of
    both, and a row that is not in the last look has no series any more.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self._rows: Mapping[tuple[str, ...], float] = {}
        registry.register(self)

    def replace(self, rows: Mapping[RowT, float]) -> None:
        """The new rows, by the values of the labels in their order. Call from any thread."""
        self._rows = dict(rows.items())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the registry asks for at each scrape."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, number in self._rows.items():
            family.add_metric(values, number)
        yield family
