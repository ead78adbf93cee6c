"""Deleting a service leaves nothing of it behind, and its model is unknown at once."""

import httpx

from cluster_view import ClusterView
from stories import REQUEST_SECONDS, Gateway, service, until

KINDS = "deployments,replicasets,pods,services,endpointslices,serviceaccounts,networkpolicies,poddisruptionbudgets"
OURS = "ryzanstein.dev/inference-service=gone"


def test_delete_leaves_nothing_behind(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("gone"))
    cluster.wait_ready("gone", 240)
    assert len(cluster.items(KINDS, OURS)) >= 7
    cluster.kubectl("delete", "rzi/gone", "--wait=true", "--timeout=120s")
    until(300, "all children are gone", lambda: not cluster.items(KINDS, OURS))
    body = {"model": "gone", "prompt": "x", "max_tokens": 1}

    def ask() -> httpx.Response:
        url = f"{gateway.url}/v1/completions"
        return httpx.post(url, json=body, headers=gateway.headers(), timeout=REQUEST_SECONDS)

    until(
        30,
        "the gateway knows it no more",
        lambda: ask().status_code == 404,
    )
