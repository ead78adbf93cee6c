"""A new engine argument rolls out while clients stream: none fails, none is cut, and the answers stay the same."""

from cluster_view import ClusterView
from stories import Gateway, service, streaming_clients, until

MIN_REQUESTS = 300


def test_a_new_engine_argument_rolls_out_under_eight_streaming_clients(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("rolling", replicas=2))
    cluster.wait_ready("rolling", 240)
    before = {pod["metadata"]["uid"] for pod in cluster.pods("rolling")}

    with streaming_clients(gateway, "rolling", 8) as load:
        until(240, "streams before the rollout", lambda: load.requests >= 20)
        cluster.patch("rolling", {"spec": {"engine": {"maxNumSeqs": 12}}})
        until(
            600,
            "the old replicas are gone",
            lambda: not before & {p["metadata"]["uid"] for p in cluster.pods("rolling")},
        )
        cluster.wait_ready("rolling", 300)
        until(800, f"{MIN_REQUESTS} requests", lambda: load.requests >= MIN_REQUESTS)

    print(f"rollout: {load.requests} requests, {len(load.failures)} failed")
    assert load.failures == []
    assert len(load.texts) == 8, "a prompt was answered in two ways"
    containers = [pod["spec"]["containers"][0] for pod in cluster.pods("rolling")]
    assert all("12" in container["args"] for container in containers)
