"""The policies of the chart and of the operator let pass what the table of flows says, and nothing else it names."""

from functools import cache

import pytest

import chart
import flows
from flows import FLOWS, HUB_WORKER, PROMETHEUS, SCRAPES, WORKER, Flow
from operated import Deployed


@cache
def default() -> Deployed:
    return Deployed(chart.installed(), flows.RELEASE_NAMESPACE)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_flow(flow: Flow) -> None:
    assert default().passes(flow) is flow.passes, flow.why


@pytest.mark.parametrize(("source", "target", "port"), SCRAPES)
def test_no_other_prometheus_reads_metrics_until_the_chart_knows_where_it_is(
    source: str, target: str, port: int
) -> None:
    assert not default().passes(Flow(source, target, port, False, ""))


def test_every_party_of_the_release_is_walled_in_both_ways() -> None:
    closed = default()
    for name in (flows.GATEWAY, flows.OPERATOR, flows.OWN_PROMETHEUS, WORKER, HUB_WORKER):
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
    ours = (flows.GATEWAY, flows.OPERATOR, flows.OWN_PROMETHEUS, WORKER)
    assert [flows.party_of(parties[name].namespace, parties[name].labels) for name in ours] == list(ours)
    assert flows.party_of("users", {"app": "client"}) == flows.CLIENT
    assert flows.party_of("kube-system", {"k8s-app": "kube-dns"}) == flows.DNS
    assert flows.party_of("kube-system", {"component": "kube-apiserver"}) == flows.APISERVER


def test_the_same_flow_is_named_once() -> None:
    keys = [(flow.source, flow.target, flow.port, flow.protocol) for flow in FLOWS]
    assert len(keys) == len(set(keys))
    assert PROMETHEUS not in {flow.source for flow in FLOWS if flow.passes}
