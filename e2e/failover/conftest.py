"""Each module has one service of its own that clients keep streaming from, whole again before each test."""

from collections.abc import Iterator

import pytest

from chaos import expected
from cluster_view import ClusterView, Nodes, Release, serves
from faults import Story, pod_name
from stories import Gateway, Manifest, service, until


def told(cluster: ClusterView, release: Release, gateway: Gateway, manifest: Manifest) -> Iterator[Story]:
    name = str(manifest["metadata"]["name"])
    cluster.apply(manifest)
    cluster.wait_ready(name, 600)
    yield Story(name, cluster, release, gateway, expected(gateway, name))
    # For the stories that follow: what stood on a killed node is back.
    release.wait_operator(300)
    release.wait_gateway(300)


@pytest.fixture(scope="module")
def steady(shared_cluster: ClusterView, release: Release, gateway: Gateway) -> Iterator[Story]:
    """Two replicas of one pod each."""
    yield from told(shared_cluster, release, gateway, service("steady", replicas=2))


@pytest.fixture(scope="module")
def pair(shared_cluster: ClusterView, release: Release, gateway: Gateway) -> Iterator[Story]:
    """Two replicas, each a group of two pods."""
    parallelism = {"tensor": 2, "nodes": 2}
    yield from told(shared_cluster, release, gateway, service("pair", replicas=2, parallelism=parallelism))


@pytest.fixture
def nodes(release: Release) -> Nodes:
    if not release.connection.nodes_are_containers:
        pytest.skip("the nodes of a cluster that somebody else made are not ours to kill")
    return Nodes(release.connection)


@pytest.fixture
def spread(steady: Story) -> Story:
    """The service with its replicas on two nodes: after a node was lost both are on the other one."""

    def apart() -> bool:
        steady.cluster.wait_ready(steady.model, 300)
        pods = steady.cluster.pods(steady.model)
        if len(pods) != 2 or not all(map(serves, pods)):
            return False  # the status has not heard yet of the one that was deleted
        if len({pod["spec"]["nodeName"] for pod in pods}) == 2:
            return True
        steady.cluster.kubectl("delete", "pod", pod_name(pods[0]))
        return False

    until(600, "the replicas are on two nodes", apart)
    return steady


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest, release: Release) -> None:
    """Each test begins with what the last one broke mended."""
    release.wait_gateway(300)
    release.wait_operator(300)
    for name in {"steady", "pair"} & set(request.fixturenames):
        story: Story = request.getfixturevalue(name)
        story.cluster.wait_ready(story.model, 300)
