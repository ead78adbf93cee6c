"""What the operator that the chart installs makes of InferenceServices: its settings from the chart, its own functions.

Knows the way from a rendered chart to worker manifests; makes no call.
"""

from collections.abc import Sequence

import chart

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import parse
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.settings import Settings


def settings_of(manifests: Sequence[chart.Manifest]) -> Settings:
    """The operator's settings as its Deployment gives them."""
    return Settings.from_environment(chart.environment(chart.one(manifests, "Deployment", "ryzanstein-operator")))


def children_of(service: chart.Manifest, manifests: Sequence[chart.Manifest], namespace: str) -> list[chart.Manifest]:
    """What the operator makes of one InferenceService in `namespace`."""
    placed = {**service, "metadata": {**service["metadata"], "namespace": namespace}}
    return list(children(parse(InferenceService, placed), settings_of(manifests)))


def samples() -> dict[str, chart.Manifest]:
    """The InferenceServices of manifests/samples, by file name."""
    return {
        path.name: service
        for path in sorted(chart.SAMPLES.glob("*.yaml"))
        for service in chart.of_kind(chart.documents(path.read_text()), "InferenceService")
    }
