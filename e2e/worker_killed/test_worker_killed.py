"""A worker that dies is noticed, named in the status, and replaced, and its model answers meanwhile."""

import signal

from cluster_view import ClusterView
from stories import Gateway, conditions, service, until


def test_a_killed_rank_ends_its_group_and_the_service_is_whole_again(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("sturdy", parallelism={"tensor": 2}, replicas=2))
    cluster.wait_ready("sturdy", 300)
    expected = gateway.complete("sturdy", "Return the")
    victim = cluster.pods("sturdy")[0]["metadata"]["name"]

    cluster.signal(victim, "worker", "engine.rank", signal.SIGKILL)

    def said() -> str | None:
        # Ready may be False before it: a worker first stops answering, and then its end is known.
        degraded = conditions(cluster.service("sturdy"))["Degraded"]
        return degraded["message"] if degraded["status"] == "True" else None

    message = until(60, "the status says that a replica is broken", said, every=0.2)
    assert victim in message or "rank" in message, message
    assert conditions(cluster.service("sturdy"))["Serving"]["status"] == "True"
    assert gateway.complete("sturdy", "Return the") == expected

    def restarts() -> int:
        statuses = [s for pod in cluster.pods("sturdy") for s in pod["status"].get("containerStatuses", [])]
        return sum(status["restartCount"] for status in statuses)

    until(240, "the kubelet restarted the group", lambda: restarts() > 0)
    cluster.wait_ready("sturdy", 300)
    assert conditions(cluster.service("sturdy"))["Degraded"]["status"] == "False"
    assert gateway.complete("sturdy", "Return the") == expected


def test_a_deleted_worker_pod_is_replaced(cluster: ClusterView, gateway: Gateway) -> None:
    cluster.apply(service("replaced"))
    cluster.wait_ready("replaced", 240)
    pod = cluster.pods("replaced")[0]["metadata"]
    cluster.kubectl("delete", "pod", pod["name"], "--force", "--grace-period=0")
    until(60, "the status has seen it", lambda: cluster.service("replaced")["status"]["readyReplicas"] == 0, every=0.2)
    cluster.wait_ready("replaced", 240)
    assert pod["uid"] not in {p["metadata"]["uid"] for p in cluster.pods("replaced")}
    assert gateway.complete("replaced", "Return the")
