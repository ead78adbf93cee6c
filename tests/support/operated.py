"""What the operator that the chart installs makes of InferenceServices: its settings from the chart, its own functions.

Knows the way from a rendered chart to worker manifests; makes no call.
"""

from collections.abc import Sequence

import chart
import flows
import netpol
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import parse
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.desired.groups import stateful_set
from ryzanstein_operator.settings import Settings


def settings_of(manifests: Sequence[chart.Manifest]) -> Settings:
    """The operator's settings as its Deployment gives them."""
    return Settings.from_environment(chart.environment(chart.one(manifests, "Deployment", "ryzanstein-operator")))


def children_of(service: chart.Manifest, manifests: Sequence[chart.Manifest], namespace: str) -> list[chart.Manifest]:
    """What the operator makes of one InferenceService in `namespace`; of its groups of pods, if any, the first."""
    placed = parse(InferenceService, {**service, "metadata": {**service["metadata"], "namespace": namespace}})
    settings = settings_of(manifests)
    several = placed.spec.parallelism.nodes > 1
    fixed = children(placed, settings, placed.spec.replicas)
    return [*fixed, *([stateful_set(placed, settings, 0)] if several else [])]


def pods_of(children: Sequence[chart.Manifest]) -> chart.Manifest:
    """What makes the worker pods: the Deployment, or the StatefulSet of a group."""
    (found,) = chart.of_kind(list(children), "Deployment", "StatefulSet")
    return found


def samples() -> dict[str, chart.Manifest]:
    """The InferenceServices of manifests/samples, by file name."""
    return {
        path.name: service
        for path in sorted(chart.SAMPLES.glob("*.yaml"))
        for service in chart.of_kind(chart.documents(path.read_text()), "InferenceService")
    }


_SAMPLE_OF = {flows.WORKER: "demo.yaml", flows.HUB_WORKER: "hub-gpu.yaml", flows.GROUP: "demo-group.yaml"}


class Deployed:
    """A rendered chart with three services in `namespace`: with the demo model, with a model of the hub, and with a
    group of pods for each replica."""

    def __init__(self, manifests: Sequence[chart.Manifest], namespace: str) -> None:
        services = samples()
        made = {party: children_of(services[name], manifests, namespace) for party, name in _SAMPLE_OF.items()}
        labels = {party: self._pod_labels(children) for party, children in made.items()}
        everything = [*manifests, *(child for children in made.values() for child in children)]
        self.parties = flows.parties(labels, namespace)
        self.network = flows.network(netpol.policies_of(everything), namespace)

    @staticmethod
    def _pod_labels(children: list[chart.Manifest]) -> dict[str, str]:
        labels: dict[str, str] = pods_of(children)["spec"]["template"]["metadata"]["labels"]
        return labels

    def passes(self, flow: flows.Flow) -> bool:
        return self.network.allows(self.parties[flow.source], self.parties[flow.target], flow.port, flow.protocol)
