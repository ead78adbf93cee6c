"""`kubectl scale` works on the custom resource, down to zero and back."""

import httpx

from cluster_view import ClusterView
from stories import Gateway, service, until


def test_kubectl_scale_changes_the_replicas(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("scaled"))
    cluster.wait_ready("scaled", 240)
    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=2")
    until(240, "two ready replicas", lambda: cluster.service("scaled")["status"]["readyReplicas"] == 2)
    assert cluster.kubectl("get", "rzi/scaled", "-o", "jsonpath={.status.selector}")

    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=0")
    until(180, "no pod", lambda: not cluster.pods("scaled"))
    body = {"model": "scaled", "prompt": "x", "max_tokens": 1}

    def answer() -> httpx.Response:
        return httpx.post(f"{gateway.url}/v1/completions", json=body, headers=gateway.headers(), timeout=60)

    refused = until(30, "503", lambda: (a := answer()).status_code == 503 and a)
    assert int(refused.headers["retry-after"]) > 0

    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=1")
    cluster.wait_ready("scaled", 240)
    assert until(30, "an answer", lambda: answer().status_code == 200)
