"""The operator dies in the middle of a create and of an update; its successor finishes what was begun."""

import json

import pytest

from cluster_view import ClusterView, Release
from stories import conditions, service, until

CHILDREN = ("deployment", "networkpolicy", "poddisruptionbudget", "serviceaccount")


def _kill(release: Release) -> None:
    """All operator pods at once, without a goodbye: neither may release the Lease."""
    release.kubectl(
        "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--force", "--grace-period=0", "--wait=false"
    )


@pytest.mark.parametrize("written", [1, 3])
def test_killed_in_the_middle_of_a_create_it_converges(cluster: ClusterView, release: Release, written: int) -> None:
    name = f"made-{written}"
    cluster.apply(service(name))

    def count() -> int:
        return len(cluster.items(",".join(CHILDREN), f"ryzanstein.dev/inference-service={name}"))

    until(120, f"{written} children exist", lambda: count() >= written, every=0.02)
    _kill(release)
    cluster.wait_ready(name, 300)
    assert count() == len(CHILDREN)
    assert len(cluster.items("replicasets", f"ryzanstein.dev/inference-service={name}")) == 1, "a second revision"
    release.wait_operator(300)


def test_killed_in_the_middle_of_an_update_it_converges(cluster: ClusterView, release: Release) -> None:
    cluster.apply(service("changed"))
    cluster.wait_ready("changed", 240)
    cluster.kubectl("patch", "rzi/changed", "--type=merge", "-p", json.dumps({"spec": {"engine": {"maxNumSeqs": 9}}}))
    _kill(release)
    until(
        240,
        "the new argument runs",
        lambda: all("9" in p["spec"]["containers"][0]["args"] for p in cluster.pods("changed")),
    )
    cluster.wait_ready("changed", 240)
    assert conditions(cluster.service("changed"))["Ready"]["observedGeneration"] == 2
    assert len(cluster.items("replicasets", "ryzanstein.dev/inference-service=changed")) == 2
    release.wait_operator(300)
