"""The operator or the API server goes, and 32 streaming clients notice nothing; then the operator goes on."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster_view import KubectlError, Nodes, Release
from faults import EAT_MEMORY, FEWER_REQUESTS, Story, pod_name, restarts, unharmed
from stories import until

AWAY_SECONDS = 120
FROZEN_SECONDS = 22
"""Longer than the Lease's 15 s, and shorter than the liveness probe takes to end a container."""
MANIFEST, ASIDE = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/root/kube-apiserver.yaml"


def leader(release: Release) -> str:
    return str(release.get("lease", "ryzanstein-operator")["spec"]["holderIdentity"])


def change(story: Story, seqs: int) -> None:
    """A change that only an operator at work brings into the pods."""
    story.cluster.patch(story.model, {"spec": {"engine": {"maxNumSeqs": seqs}}})


def runs(story: Story, seqs: int) -> bool:
    """Whether every pod has the change, and no third revision was made on the way."""
    pods = story.cluster.pods(story.model)
    return bool(pods) and all(str(seqs) in pod["spec"]["containers"][0]["args"] for pod in pods)


def test_an_operator_out_of_memory(steady: Story) -> None:
    victim = leader(steady.release)
    before = restarts(steady.release.get("pod", victim))  # a story before this one may have cost it one
    with steady.under_load("OOMKill of the leading operator", FEWER_REQUESTS) as watched:
        watched.struck()
        steady.release.run_until_killed(victim, "operator", EAT_MEMORY)
        change(steady, 40)
        watched.within(240, "change carried out", lambda: runs(steady, 40))
    unharmed(watched)
    assert restarts(steady.release.get("pod", victim)) > before


def test_two_operators_at_once(steady: Story) -> None:
    """The one that leads is frozen past its Lease and goes on then: it must see that it leads no more."""
    frozen = leader(steady.release)
    sets = len(steady.cluster.items("replicasets", ""))
    with steady.under_load("the leading operator frozen for 22 s", FEWER_REQUESTS) as watched:
        watched.struck()
        steady.release.signal(frozen, "operator", "ryzanstein_operator", signal.SIGSTOP)
        change(steady, 41)
        watched.within(90, "another leads", lambda: leader(steady.release) not in ("", frozen))
        time.sleep(max(0.0, watched.since + FROZEN_SECONDS - time.monotonic()))
        steady.release.signal(frozen, "operator", "ryzanstein_operator", signal.SIGCONT)
        watched.within(240, "change carried out", lambda: runs(steady, 41))
        steady.cluster.wait_ready(steady.model, 180)
    unharmed(watched)
    assert leader(steady.release) != frozen
    assert len(steady.cluster.items("replicasets", "")) <= min(sets + 1, 3), "a revision that nobody asked for"


@contextmanager
def without_api_server(nodes: Nodes, control_plane: str, story: Story) -> Iterator[None]:
    nodes.docker("exec", control_plane, "mv", MANIFEST, ASIDE)
    try:
        yield
    finally:
        nodes.docker("exec", control_plane, "mv", ASIDE, MANIFEST)
        until(300, "the API server is back", lambda: answers(story))


def answers(story: Story) -> bool:
    """Whether the API server serves our resources: after its start that takes a moment longer than its own /readyz."""
    try:
        story.cluster.once("get", "inferenceservices.ryzanstein.dev", "--request-timeout=2s")
    except KubectlError:
        return False
    return True


def test_no_api_server_for_two_minutes(steady: Story, nodes: Nodes) -> None:
    control_plane = steady.release.items("nodes", "node-role.kubernetes.io/control-plane")[0]
    before = {pod_name(pod): restarts(pod) for pod in steady.cluster.pods(steady.model)}
    with steady.under_load("no API server for 120 s", FEWER_REQUESTS) as watched:
        watched.struck()
        with without_api_server(nodes, pod_name(control_plane), steady):
            until(120, "the API server is gone", lambda: not answers(steady))
            time.sleep(AWAY_SECONDS)
        watched.struck()
        after = {pod_name(pod): restarts(pod) for pod in steady.cluster.pods(steady.model)}
        change(steady, 42)
        generation = steady.cluster.service(steady.model)["metadata"]["generation"]
        watched.within(
            120, "operator at work again", lambda: steady.condition("Progressing")["observedGeneration"] == generation
        )
        watched.within(300, "change carried out", lambda: runs(steady, 42))
    unharmed(watched)
    assert after == before, "the workers were left alone"
