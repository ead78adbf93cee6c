"""What a hand changes on our objects is put back within 10 s."""

import json

from cluster_view import ClusterView
from stories import service, until


def test_a_hand_edited_deployment_is_put_back(cluster: ClusterView) -> None:
    cluster.apply(service("tidy"))
    cluster.wait_ready("tidy", 240)
    pods = {pod["metadata"]["uid"] for pod in cluster.pods("tidy")}
    want = cluster.get("deployment", "tidy")["spec"]

    cluster.kubectl("patch", "deployment/tidy", "--type=merge", "-p", json.dumps({"spec": {"replicas": 3}}))
    until(10, "the replicas are put back", lambda: cluster.get("deployment", "tidy")["spec"]["replicas"] == 1)
    cluster.kubectl("delete", "networkpolicy/tidy")
    until(
        10,
        "the network policy is back",
        lambda: cluster.items("networkpolicies", "ryzanstein.dev/inference-service=tidy"),
    )

    assert cluster.get("deployment", "tidy")["spec"] == want
    until(120, "the surplus pods are gone", lambda: len(cluster.pods("tidy")) == 1)
    assert {pod["metadata"]["uid"] for pod in cluster.pods("tidy")} <= pods, "the serving pod was replaced"
