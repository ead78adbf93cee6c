"""One /metrics for several processes: their counts added up, their views merged, nothing lost with one that dies.

Counters, histograms and the gauges of `Metrics` live in one file a process, mapped into its memory: what a killed
process counted stays, and its successor in the same slot counts on, so that no sum ever falls. Gauges are named
"livesum": the parent takes a dead process' away. What a `View` looks up comes by the member's reports.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import prometheus_client.values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

_READS: Final = 5


class Family(msgspec.Struct, frozen=True):
    """One gauge of a View as one process sees it: each sample's labels and value."""

    name: str
    help: str
    samples: tuple[tuple[dict[str, str], float], ...]


def share_counts(directory: Path, slot: int) -> None:
    """From now on, what this process counts lies in `directory` under its slot. Before the first metric is made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def families(view: Collector) -> tuple[Family, ...]:
    """What a View shows now, ready to be sent."""
    return tuple(
        Family(one.name, one.documentation, tuple((sample.labels, sample.value) for sample in one.samples))
        for one in view.collect()
    )


def merged(views: Iterable[tuple[Family, ...]]) -> list[Metric]:
    """The gauges of several processes as one. All look at the same things, so the highest value is shown: of an age or
    an alarm the worst, of a count that of the process that has heard last of a newcomer."""
    helps: dict[str, str] = {}
    values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in (family for view in views for family in view):
        helps[family.name] = family.help
        into = values.setdefault(family.name, {})
        for labels, value in family.samples:
            key = tuple(labels.items())
            before = into.get(key)
            into[key] = value if before is None else max(before, value)
    return [_gauge(name, helps[name], samples) for name, samples in values.items()]


def _gauge(name: str, documentation: str, samples: dict[tuple[tuple[str, str], ...], float]) -> Metric:
    gauge = GaugeMetricFamily(name, documentation)
    for labels, value in samples.items():
        gauge.add_sample(name, dict(labels), value)
    return gauge


@dataclass(frozen=True, slots=True)
class Summed(Collector):
    """What all processes together have counted, and see."""

    directory: Path
    views: Callable[[], Iterable[tuple[Family, ...]]]

    def collect(self) -> Iterator[Metric]:
        """The sums as they are now."""
        yield from self._counts()
        yield from merged(self.views())

    def _counts(self) -> list[Metric]:
        collector: Collector = MultiProcessCollector(None, path=str(self.directory))  # type: ignore[no-untyped-call]
        for _ in range(_READS):
            try:
                return list(collector.collect())
            except (struct.error, FileNotFoundError):  # a file is being made or taken away at this moment
                continue
        return list(collector.collect())


def bury(directory: Path, slot: int, in_flight: str) -> int:
    """A process has died: how many requests it had `in_flight` (a gauge's name); then its gauges are no more."""
    lost = 0.0
    path = directory / f"gauge_livesum_{slot}.db"
    if path.exists():
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            lost += value if json.loads(key)[0] == in_flight else 0.0
    mark_process_dead(slot, path=str(directory))  # type: ignore[no-untyped-call]
    return round(lost)
