"""A node goes, in each way that nodes do, and comes back: 32 streaming clients notice nothing, the status tells."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cluster_view import Nodes, Release
from faults import FEWER_REQUESTS, Story, Watched, pod_name, uids, unharmed
from stories import until

DETECTED_SECONDS = 20.0
REPLACED_SECONDS = 40.0
"""Bounds for two cores that also run everything else; the aims are 5 and 10 seconds, and what was seen is printed."""
NOT_READY_SECONDS = 150.0
"""Kubernetes' own 50 s of grace for a kubelet that says nothing, and what it takes on a busy machine."""

Fault = tuple[Callable[[Nodes, str], object], Callable[[Nodes, str], object]]
FAULTS: dict[str, Fault] = {
    "killed": (lambda nodes, node: nodes.docker("kill", node), lambda nodes, node: nodes.docker("start", node)),
    "frozen": (lambda nodes, node: nodes.docker("pause", node), lambda nodes, node: nodes.docker("unpause", node)),
    "cut off": (
        lambda nodes, node: nodes.docker("network", "disconnect", "kind", node),
        lambda nodes, node: nodes.docker("network", "connect", "kind", node),
    ),
}


def clear(story: Story) -> str:
    """A node with one replica on it, and neither gateway (one that dies takes its connections along, as another test
    shows) nor operator (whose Lease would have to expire first, as another test shows)."""
    node = str(story.servers()[0]["spec"]["nodeName"])
    release = story.release
    ours = ("gateway", "operator")

    def elsewhere() -> bool:
        return all(pod["spec"].get("nodeName", node) != node for pod in release.living(*ours))

    release.kubectl("cordon", node)
    try:
        for pod in release.living(*ours):
            if pod["spec"].get("nodeName") == node:
                release.kubectl("delete", "pod", pod_name(pod), "--wait=false")
        # Not before they have ended there: what comes in their place must find the node still cordoned.
        until(300, f"no gateway and no operator is on {node}", elsewhere)
        release.wait_gateway(300)
        release.wait_operator(300)
    finally:
        release.kubectl("uncordon", node)
    return node


def apart(release: Release) -> None:
    """The gateways are on two nodes again, as the chart spreads them, after `clear` has moved them to one."""

    def spread() -> bool:
        release.wait_gateway(300)
        pods = release.gateways()
        if len({pod["spec"]["nodeName"] for pod in pods}) == 2:
            return True
        release.kubectl("delete", "pod", pod_name(pods[0]))
        return False

    until(600, "the gateways are on two nodes", spread)


@contextmanager
def broken(nodes: Nodes, node: str, how: str) -> Iterator[None]:
    """The node is as `how` says within the block, and back after it."""
    begin, end = FAULTS[how]
    begin(nodes, node)
    try:
        yield
    finally:
        end(nodes, node)
        nodes.wait_ready(node, 300)


def unhealthy(story: Story) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in story.status().get("unhealthyNodes", [])}


def replacement(story: Story, before: set[str], node: str) -> bool:
    """Whether a pod that was not there before has another node."""
    pods = story.cluster.pods(story.model)
    return any(pod["metadata"]["uid"] not in before and pod["spec"].get("nodeName", node) != node for pod in pods)


def healed(story: Story, watched: Watched, node: str, before: set[str], detected: float) -> None:
    watched.within(detected, "status told", lambda: node in unhealthy(story))
    watched.within(detected + REPLACED_SECONDS, "replacement scheduled", lambda: replacement(story, before, node))
    story.cluster.wait_ready(story.model, 300)


def back(story: Story, node: str) -> None:
    """The node is trusted again, and what still ran on it is gone."""
    until(240, "the status no longer names the node", lambda: node not in unhealthy(story))
    until(240, "no pod beyond the replicas is left", lambda: len(story.cluster.items("pods", "")) == 2)


@pytest.mark.parametrize("how", list(FAULTS))
def test_a_lost_node(spread: Story, nodes: Nodes, how: str) -> None:
    node, before, moved = clear(spread), uids(spread.cluster.pods(spread.model)), spread.migrations()
    with spread.under_load(f"a node {how}") as watched:
        watched.struck()
        with broken(nodes, node, how):
            healed(spread, watched, node, before, DETECTED_SECONDS)
    unharmed(watched)
    assert spread.migrations() > moved, "no stream had to be continued"
    back(spread, node)


def test_a_stopped_kubelet(spread: Story, nodes: Nodes) -> None:
    """Its pods go on and serve; only Kubernetes can tell, after its own time."""
    node, before = clear(spread), uids(spread.cluster.pods(spread.model))
    with spread.under_load("a kubelet stopped", FEWER_REQUESTS) as watched:
        watched.struck()
        nodes.docker("exec", node, "systemctl", "stop", "kubelet")
        try:
            healed(spread, watched, node, before, NOT_READY_SECONDS)
        finally:
            nodes.docker("exec", node, "systemctl", "start", "kubelet")
            nodes.wait_ready(node, 300)
    unharmed(watched)
    back(spread, node)


def test_a_drained_node(spread: Story) -> None:
    apart(spread.release)
    node = str(spread.servers()[0]["spec"]["nodeName"])
    try:
        with spread.under_load("a drain") as watched:
            watched.struck()
            drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s")
            spread.release.kubectl(*drain)
    finally:
        spread.release.kubectl("uncordon", node)
    unharmed(watched)
