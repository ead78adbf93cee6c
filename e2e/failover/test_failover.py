"""Something breaks under 32 streaming clients, and they notice nothing: each row at least 1,000 requests.

All rows share one service of two replicas; each waits until it is whole again before the next.
"""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chaos import Ask, Seen, Told, clients, expected
from cluster_view import READ_METRICS, ClusterView, Nodes, Release
from ryzanstein_worker.contract import NUM_REQUESTS_RUNNING
from stories import Gateway, Manifest, service, until

MODEL = "steady"
MIN_REQUESTS = 1000
REFUSED_SECONDS = 20.0
"""Until every node has heard that a killed gateway takes no connections, or it takes them again."""
BEFORE = 100
"""Requests before the fault, so that it meets a service at work."""


@pytest.fixture(scope="module")
def steady(shared_cluster: ClusterView, release: Release) -> Iterator[ClusterView]:
    shared_cluster.apply(service(MODEL, replicas=2))
    shared_cluster.wait_ready(MODEL, 300)
    yield shared_cluster
    # For the stories that follow: what stood on a killed node is back.
    release.wait_operator(180)
    release.wait_gateway(180)


@pytest.fixture(scope="module")
def answers(steady: ClusterView, gateway: Gateway) -> dict[Ask, Told]:
    return expected(gateway, MODEL)


@pytest.fixture
def nodes(release: Release) -> Nodes:
    if not release.connection.nodes_are_containers:
        pytest.skip("the nodes of a cluster that somebody else made are not ours to kill")
    return Nodes(release.connection)


@pytest.fixture(autouse=True)
def whole(steady: ClusterView, release: Release) -> None:
    """Each row begins with what the last one broke mended."""
    steady.wait_ready(MODEL, 300)
    release.wait_gateway(120)


@contextmanager
def under_load(title: str, steady: ClusterView, gateway: Gateway, answers: dict[Ask, Told]) -> Iterator[Seen]:
    """The block breaks something; then the load goes on to its number of requests and what was seen is printed."""
    with clients(gateway, MODEL, answers) as seen:
        until(120, f"{BEFORE} requests before the fault", lambda: seen.requests >= BEFORE, every=0.05)
        # A node that has just come back may be Ready before the gateways reach its pods again.
        until(120, "every replica is at work", lambda: all(running(steady, pod) for pod in steady.pods(MODEL)))
        yield seen
        until(400, f"{MIN_REQUESTS} requests", lambda: seen.requests >= MIN_REQUESTS)
    seen.report(title)


def running(steady: ClusterView, pod: Manifest) -> float:
    """The requests that a worker has in its engine."""
    text = steady.kubectl("exec", pod_name(pod), "-c", "worker", "--", "python", "-c", READ_METRICS)
    return sum(map(float, re.findall(rf"^{NUM_REQUESTS_RUNNING}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def unharmed(seen: Seen) -> None:
    assert seen.failures == []
    assert seen.different == []
    assert seen.requests >= MIN_REQUESTS


def pod_name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def victim_node(steady: ClusterView, release: Release) -> str:
    """A node with one replica on it and no gateway: a gateway that dies takes its connections along, as another row
    shows."""
    homes = [str(pod["spec"]["nodeName"]) for pod in steady.pods(MODEL)]
    assert len(set(homes)) == 2, f"both replicas are on one node: {homes}"
    node = homes[0]
    release.kubectl("cordon", node)
    try:
        for pod in release.gateways():
            if pod["spec"]["nodeName"] == node:
                release.kubectl("delete", "pod", pod_name(pod), "--wait=false")
        release.wait_gateway(180)
    finally:
        release.kubectl("uncordon", node)
    return node


def test_a_killed_worker(steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told]) -> None:
    before = release.gateway_metric("ryzanstein_gateway_migrations_total")
    with under_load("SIGKILL of a worker", steady, gateway, answers) as seen:
        steady.signal(pod_name(steady.pods(MODEL)[0]), "worker", "ryzanstein_worker", signal.SIGKILL)
    unharmed(seen)
    assert release.gateway_metric("ryzanstein_gateway_migrations_total") > before, "no stream had to be continued"


def test_a_frozen_rank(steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told]) -> None:
    before = release.gateway_metric("ryzanstein_gateway_migrations_total")
    with under_load("SIGSTOP of a rank", steady, gateway, answers) as seen:
        steady.signal(pod_name(steady.pods(MODEL)[0]), "worker", "engine.rank", signal.SIGSTOP)
    unharmed(seen)
    assert release.gateway_metric("ryzanstein_gateway_migrations_total") > before, "no stream had to be continued"


def test_a_rollout(steady: ClusterView, gateway: Gateway, answers: dict[Ask, Told]) -> None:
    old = {pod["metadata"]["uid"] for pod in steady.pods(MODEL)}
    with under_load("a rollout", steady, gateway, answers) as seen:
        steady.patch(MODEL, {"spec": {"engine": {"maxNumSeqs": 48}}})
        until(300, "the old replicas are gone", lambda: not old & {p["metadata"]["uid"] for p in steady.pods(MODEL)})
        steady.wait_ready(MODEL, 180)
    unharmed(seen)


def test_a_killed_gateway(steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told]) -> None:
    victim = release.gateways()[0]
    with under_load("SIGKILL of a gateway", steady, gateway, answers) as seen:
        release.signal(pod_name(victim), "gateway", "ryzanstein_gateway", signal.SIGKILL)
        killed_at = time.monotonic()
    # Its own connections break, and new ones are refused until every node has heard; nothing else may fail.
    assert [failure for failure in seen.failures if not failure.startswith(("Client", "Server"))] == []
    assert all(at < killed_at + REFUSED_SECONDS for at in seen.failed_at), "a gateway was missed for too long"
    assert seen.different == []


def test_a_killed_node(
    steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told], nodes: Nodes
) -> None:
    node = victim_node(steady, release)
    before = release.gateway_metric("ryzanstein_gateway_migrations_total")
    try:
        with under_load("a node killed", steady, gateway, answers) as seen:
            nodes.docker("kill", node)
    finally:
        nodes.docker("start", node)
        nodes.wait_ready(node, 180)
    unharmed(seen)
    assert release.gateway_metric("ryzanstein_gateway_migrations_total") > before, "no stream had to be continued"


def test_a_node_cut_off(
    steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told], nodes: Nodes
) -> None:
    node = victim_node(steady, release)
    before = release.gateway_metric("ryzanstein_gateway_migrations_total")
    try:
        with under_load("a node cut off", steady, gateway, answers) as seen:
            nodes.docker("network", "disconnect", "kind", node)
    finally:
        nodes.docker("network", "connect", "kind", node)
        nodes.wait_ready(node, 180)
    unharmed(seen)
    assert release.gateway_metric("ryzanstein_gateway_migrations_total") > before, "no stream had to be continued"


def test_a_drained_node(steady: ClusterView, release: Release, gateway: Gateway, answers: dict[Ask, Told]) -> None:
    node = str(steady.pods(MODEL)[0]["spec"]["nodeName"])
    try:
        with under_load("a drain", steady, gateway, answers) as seen:
            release.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=110s")
    finally:
        release.kubectl("uncordon", node)
    unharmed(seen)
