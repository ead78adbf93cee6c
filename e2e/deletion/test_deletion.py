"""Deleting a service leaves nothing of it behind, and its model is unknown at once."""

import httpx

from cluster_view import ClusterView
from stories import Gateway, service, until

KINDS = "deployments,replicasets,pods,services,endpointslices,serviceaccounts,networkpolicies,poddisruptionbudgets"
OURS = "ryzanstein.dev/inference-service=gone"


def test_delete_leaves_nothing_behind(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("gone"))
    cluster.wait_ready("gone", 240)
    assert len(cluster.items(KINDS, OURS)) >= 7
    cluster.kubectl("delete", "rzi/gone", "--wait=true", "--timeout=30s")
    until(180, "all children are gone", lambda: not cluster.items(KINDS, OURS))
    body = {"model": "gone", "prompt": "x", "max_tokens": 1}
    until(
        30,
        "the gateway knows it no more",
        lambda: httpx.post(f"{gateway.url}/v1/completions", json=body, headers=gateway.headers()).status_code == 404,
    )
