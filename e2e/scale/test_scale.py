"""`kubectl scale` works on the custom resource, down to zero and back; who asks meanwhile waits for the replica."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from cluster_view import OURS, ClusterView
from stories import Gateway, service, until


def test_kubectl_scale_changes_the_replicas(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("scaled", routing={"queueTimeoutSeconds": 300}))
    cluster.wait_ready("scaled", 240)
    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=2")
    until(240, "two ready replicas", lambda: cluster.service("scaled")["status"]["readyReplicas"] == 2)
    assert cluster.kubectl("get", "rzi/scaled", "-o", "jsonpath={.status.selector}")
    body = {"model": "scaled", "prompt": "x", "max_tokens": 1}

    def answer() -> httpx.Response:
        return httpx.post(f"{gateway.url}/v1/completions", json=body, headers=gateway.headers(), timeout=360)

    def waiting() -> str:
        of_it = "--field-selector=reason=RequestsWaiting"
        return cluster.kubectl("get", "events", of_it, "-o", "jsonpath={.items[*].message}")

    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=0")
    # Not even one on its way out: that still answers.
    until(180, "no pod", lambda: not cluster.items("pods", f"{OURS}=scaled"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(answer)
        assert "spec.replicas is 0" in until(120, "an Event that a request waits", waiting)
        assert not asked.done()
        cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=1")
        assert asked.result(360).status_code == 200

    cluster.kubectl("scale", "inferenceservice/scaled", "--replicas=0")
    cluster.patch("scaled", {"spec": {"routing": {"queueTimeoutSeconds": 1}}})
    until(180, "no pod", lambda: not cluster.pods("scaled"))
    refused = until(60, "503", lambda: (a := answer()).status_code == 503 and a)
    assert refused.json()["error"]["code"] == "no_ready_replica"
    assert int(refused.headers["retry-after"]) > 0
