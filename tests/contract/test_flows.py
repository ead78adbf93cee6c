"""The policies of the chart and of the operator let pass what the table of flows says, and nothing else it names."""

from functools import cache

import chart
import flows
import netpol
import operated
import pytest
from flows import FLOWS, HUB_WORKER, PROMETHEUS, SCRAPES, WORKER, Flow

WORKER_NAMESPACE = flows.RELEASE_NAMESPACE
SAMPLE_OF = {WORKER: "demo.yaml", HUB_WORKER: "hub-gpu.yaml"}


class Deployed:
    """The default install with two services: one with the demo model, one with a model of the hub."""

    def __init__(self, manifests: tuple[chart.Manifest, ...], namespace: str) -> None:
        samples = operated.samples()
        made = {party: operated.children_of(samples[name], manifests, namespace) for party, name in SAMPLE_OF.items()}
        labels = {party: self._pod_labels(children) for party, children in made.items()}
        everything = [*manifests, *(child for children in made.values() for child in children)]
        self.parties = flows.parties(labels, namespace)
        self.network = flows.network(netpol.policies_of(everything), namespace)

    @staticmethod
    def _pod_labels(children: list[chart.Manifest]) -> dict[str, str]:
        (deployment,) = chart.of_kind(children, "Deployment")
        labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
        return labels

    def passes(self, flow: Flow) -> bool:
        return self.network.allows(self.parties[flow.source], self.parties[flow.target], flow.port, flow.protocol)


@cache
def default() -> Deployed:
    return Deployed(chart.installed(), WORKER_NAMESPACE)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_flow(flow: Flow) -> None:
    assert default().passes(flow) is flow.passes, flow.why


@pytest.mark.parametrize(("source", "target", "port"), SCRAPES)
def test_nobody_reads_metrics_until_the_chart_is_told_where_prometheus_is(source: str, target: str, port: int) -> None:
    assert not default().passes(Flow(source, target, port, False, ""))


def test_every_party_of_the_release_is_walled_in_both_ways() -> None:
    closed = default()
    for name in (flows.GATEWAY, flows.OPERATOR, WORKER, HUB_WORKER):
        stranger = closed.parties[flows.NEIGHBOUR]
        assert not closed.network.allows(closed.parties[name], stranger, 9999), f"{name} may call anybody"
        assert not closed.network.allows(stranger, closed.parties[name], 9999), f"anybody may call {name}"


def test_a_connection_that_the_table_does_not_know_is_told() -> None:
    seen = [
        ("client", "gateway", 8000, "TCP"),
        ("gateway", "worker", 8000, "TCP"),
        ("node", "worker", 8001, "TCP"),
        ("client", "dns", 53, "UDP"),
    ]
    assert flows.complaints(seen) == []
    assert flows.complaints([*seen, ("worker", "outside", 443, "TCP")]) == [
        "worker opened a connection to outside:443/TCP, which the table of flows does not let pass"
    ]


def test_pods_seen_on_a_cluster_are_recognised() -> None:
    parties = default().parties
    ours = (flows.GATEWAY, flows.OPERATOR, WORKER)
    assert [flows.party_of(parties[name].namespace, parties[name].labels) for name in ours] == list(ours)
    assert flows.party_of("users", {"app": "client"}) == flows.CLIENT
    assert flows.party_of("kube-system", {"k8s-app": "kube-dns"}) == flows.DNS
    assert flows.party_of("kube-system", {"component": "kube-apiserver"}) == flows.APISERVER


def test_the_same_flow_is_named_once() -> None:
    keys = [(flow.source, flow.target, flow.port, flow.protocol) for flow in FLOWS]
    assert len(keys) == len(set(keys))
    assert PROMETHEUS not in {flow.source for flow in FLOWS if flow.passes}
