"""A worker or a gateway goes, and 32 streaming clients notice nothing."""

import json
import signal
import time

import pytest

from faults import EAT_MEMORY, FEWER_REQUESTS, Story, pod_name, restarts, uids, unharmed
from stories import until

REFUSED_SECONDS = 20.0
"""Until every node has heard that a killed gateway takes no connections, or it takes them again."""


def test_a_killed_worker(steady: Story) -> None:
    before = steady.migrations()
    with steady.under_load("SIGKILL of a worker") as watched:
        watched.struck()
        steady.cluster.signal(pod_name(steady.servers()[0]), "worker", "ryzanstein_worker", signal.SIGKILL)
    unharmed(watched)
    assert steady.migrations() > before, "no stream had to be continued"


def test_a_frozen_rank(steady: Story) -> None:
    before = steady.migrations()
    victim = pod_name(steady.servers()[0])
    with steady.under_load("SIGSTOP of a rank") as watched:
        watched.struck()
        steady.cluster.signal(victim, "worker", "engine.rank", signal.SIGSTOP)
        watched.within(30, "status told", lambda: victim in steady.condition("Degraded")["message"])
    unharmed(watched)
    assert steady.migrations() > before, "no stream had to be continued"


def test_a_worker_out_of_memory(steady: Story) -> None:
    victim = pod_name(steady.servers()[0])
    with steady.under_load("OOMKill of a worker", FEWER_REQUESTS) as watched:
        _eat_memory(steady, victim)
        watched.struck()
        watched.within(60, "status told", lambda: steady.condition("Degraded")["reason"] == "OutOfMemory")
    unharmed(watched)
    assert steady.status()["lastFailure"]["reason"] == "OutOfMemory"


def test_a_rollout(steady: Story) -> None:
    old = uids(steady.cluster.pods(steady.model))
    with steady.under_load("a rollout") as watched:
        watched.struck()
        steady.cluster.patch(steady.model, {"spec": {"engine": {"maxNumSeqs": 48}}})
        watched.within(600, "old replicas gone", lambda: not old & uids(steady.cluster.pods(steady.model)))
        steady.cluster.wait_ready(steady.model, 300)
    unharmed(watched)


def test_an_evicted_worker(steady: Story) -> None:
    victim = steady.servers()[0]["metadata"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim["name"]}}
    path = f"/api/v1/namespaces/{steady.cluster.namespace}/pods/{victim['name']}/eviction"
    with steady.under_load("an eviction", FEWER_REQUESTS) as watched:
        watched.struck()
        steady.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
        watched.within(240, "replaced", lambda: victim["uid"] not in uids(steady.cluster.pods(steady.model)))
    unharmed(watched)


@pytest.mark.parametrize("how", ["SIGKILL", "OOMKill"])
def test_a_lost_gateway(steady: Story, how: str) -> None:
    victim = steady.release.gateways()[0]
    with steady.under_load(f"{how} of a gateway") as watched:
        watched.struck()
        if how == "SIGKILL":
            steady.release.signal(pod_name(victim), "gateway", "ryzanstein_gateway", signal.SIGKILL)
        else:
            steady.release.run_until_killed(pod_name(victim), "gateway", EAT_MEMORY)
        lost_at = time.monotonic()
        until(180, "the kubelet starts it again", lambda: _restarted(steady, victim["metadata"]["uid"]))
    # Its own connections break, and new ones are refused until every node has heard; nothing else may fail.
    failures = watched.seen.failures
    assert [failure for failure in failures if not failure.startswith(("Client", "Server"))] == []
    assert all(at < lost_at + REFUSED_SECONDS for at in watched.seen.failed_at), "a gateway was missed for too long"
    assert watched.seen.different == []


def _restarted(story: Story, uid: str) -> bool:
    return any(pod["metadata"]["uid"] == uid and restarts(pod) > 0 for pod in story.release.gateways())


def _eat_memory(story: Story, pod: str) -> None:
    story.cluster.run_until_killed(pod, "worker", EAT_MEMORY)
