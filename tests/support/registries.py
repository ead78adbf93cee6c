"""Every family of metrics that the code has, from its own registries. Starts nothing and measures nothing.

Knows how each part makes its registry; what is in it comes from there. `undocumented_names` finds a name in the source
that none of them shows.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

import ryzanstein_gateway
from ryzanstein_gateway.gauges import View
from ryzanstein_gateway.metrics import Metrics as GatewayMetrics
from ryzanstein_gateway.processes import Parent
from ryzanstein_gateway.settings import Settings
from ryzanstein_operator.telemetry import Metrics as OperatorMetrics
from ryzanstein_worker import contract
from ryzanstein_worker.telemetry.catalogue import catalogue

PARTS: Final = ("worker", "gateway", "operator")
_SUFFIXES: Final = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "info": ("_info",),
}
_OF_GATEWAY: Final = re.compile(r"ryzanstein_gateway_[a-z_]*[a-z]")


@dataclass(frozen=True)
class Family:
    """One metric. name: without a counter's `_total`; kind: Prometheus' type, or info."""

    part: str
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that PromQL knows it by."""
        return tuple(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))

    @property
    def shown(self) -> str:
        """The name that a reader looks for."""
        return self.name if self.kind in ("histogram", "summary") else self.series[0]


def families() -> list[Family]:
    """All of them, by part and name."""
    found = {family.name: family for family in _all()}
    return sorted(found.values(), key=lambda one: (PARTS.index(one.part), one.name))


def undocumented_names() -> list[str]:
    """Names that the source holds and no registry here shows: then a registry is made up of more than this module
    knows. The operator's names are all made where its registry is."""
    known = {name for family in families() for name in (family.name, *family.series)}
    constants = {name: value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}
    named = {value for value in constants.values() if value.startswith("ryzanstein_")}
    for path in Path(ryzanstein_gateway.__file__).parent.glob("**/*.py"):
        words = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        named |= {word for word in words if isinstance(word, str) and _OF_GATEWAY.fullmatch(word)}
    return sorted(named - known)


def _all() -> Iterator[Family]:
    yield from _of("worker", catalogue())
    yield from _of("gateway", GatewayMetrics().registry)
    yield from _of("gateway", Parent(Settings(namespace="-", watch_namespaces=("-",), processes=2)).registry)
    yield from (_family("gateway", metric) for metric in _view().collect())
    yield from _of("operator", OperatorMetrics().registry)


@dataclass(frozen=True)
class _Standing:
    model: str = "model"
    endpoint: str = "pod"
    against: str = "Lagging"
    breaker: str = "open"


def _view() -> View:
    """With something to tell of everything: what is not there has no series."""
    return View(
        endpoints_ready=lambda: (("model", 1),),
        watch_ages=lambda: (("routes", 1.0),),
        routes_stale=lambda: True,
        standings=lambda: (_Standing(),),
        views_told_at=lambda: 1.0,
        certificate_expires_at=lambda: 1.0,
    )


def _of(part: str, registry: CollectorRegistry) -> Iterator[Family]:
    # A metric with labels shows them only once it has a series, so the collectors are asked, not the pages.
    collectors: list[Collector] = list(registry._collector_to_names)
    for collector in collectors:
        if isinstance(collector, MetricWrapperBase):
            (metric,) = collector.collect()
            labels = tuple(collector._labelnames) or _labels(metric)
            yield Family(part, collector._name, str(collector._type), labels, collector._documentation)
        else:
            yield from (_family(part, metric) for metric in collector.collect())


def _family(part: str, metric: Metric) -> Family:
    own: Any = getattr(metric, "_labelnames", ())
    return Family(part, metric.name, metric.type, tuple(own) or _labels(metric), metric.documentation)


def _labels(metric: Metric) -> tuple[str, ...]:
    """As its series have them."""
    return tuple(sorted({name for sample in metric.samples for name in sample.labels} - {"le", "quantile"}))
