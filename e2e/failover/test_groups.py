"""One pod of a group, or one rank in it, goes: its group starts anew as a whole, the other serves, nobody notices."""

import signal

import pytest

from cluster_view import serves
from faults import FEWER_REQUESTS, Story, Watched, pod_name, restarts, uids, unharmed
from ryzanstein_worker.contract import LABEL_GROUP, LABEL_POD_INDEX
from stories import Manifest, until

PODS = 4
RANK_TOLD_SECONDS = 15.0
"""A bound for two cores that also run everything else; the aim is 5 seconds, and what was seen is printed."""


def group_of(pair: Story) -> tuple[str, list[Manifest]]:
    """One group: its name and its pods in order."""
    pods = pair.cluster.pods(pair.model)
    name = sorted(pod["metadata"]["labels"][LABEL_GROUP] for pod in pods)[0]
    mine = [pod for pod in pods if pod["metadata"]["labels"][LABEL_GROUP] == name]
    return name, sorted(mine, key=lambda pod: str(pod["metadata"]["labels"][LABEL_POD_INDEX]))


def told(pair: Story, watched: Watched, group: str) -> None:
    watched.within(RANK_TOLD_SECONDS, "status told", lambda: group in pair.condition("Degraded")["message"])


def restarts_in(pair: Story, group: str) -> list[int]:
    return [restarts(pod) for pod in pair.cluster.pods(pair.model) if pod["metadata"]["labels"][LABEL_GROUP] == group]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_rank_of_a_group(pair: Story, number: signal.Signals) -> None:
    group, (_, follower) = group_of(pair)
    before, others = restarts_in(pair, group), uids(pair.cluster.pods(pair.model))
    with pair.under_load(f"{number.name} of a rank of a two-pod group", FEWER_REQUESTS) as watched:
        watched.struck()
        pair.cluster.signal(pod_name(follower), "worker", "engine.rank", number)
        told(pair, watched, group)
        watched.within(240, "both pods restarted", lambda: min(_more(restarts_in(pair, group), before), default=0) > 0)
        pair.cluster.wait_ready(pair.model, 300)
    unharmed(watched)
    assert _more(restarts_in(pair, group), before) == [1, 1], "the whole group starts anew, and once"
    assert uids(pair.cluster.pods(pair.model)) == others, "no pod was exchanged for it"


def _more(after: list[int], before: list[int]) -> list[int]:
    return [now - then for now, then in zip(after, before, strict=True)] if len(after) == len(before) else []


def replaced(pair: Story, uid: str) -> bool:
    """Whether another pod stands in the place of this one."""
    pods = pair.cluster.pods(pair.model)
    return len(pods) == PODS and uid not in uids(pods)


def test_an_evicted_pod_of_a_group(pair: Story) -> None:
    _, (_, follower) = group_of(pair)
    uid = follower["metadata"]["uid"]
    with pair.under_load("a pod of a two-pod group deleted", FEWER_REQUESTS) as watched:
        watched.struck()
        pair.cluster.kubectl("delete", "pod", pod_name(follower), "--wait=false")
        watched.within(180, "replaced", lambda: replaced(pair, uid))
        until(300, "the group is whole", lambda: all(map(serves, pair.cluster.pods(pair.model))))
        pair.cluster.wait_ready(pair.model, 300)
    unharmed(watched)


def test_a_rollout_of_groups(pair: Story) -> None:
    old = uids(pair.cluster.pods(pair.model))
    with pair.under_load("a rollout of two-pod groups", FEWER_REQUESTS) as watched:
        watched.struck()
        pair.cluster.patch(pair.model, {"spec": {"engine": {"maxNumSeqs": 48}}})
        watched.within(600, "old groups gone", lambda: not old & uids(pair.cluster.pods(pair.model)))
        pair.cluster.wait_ready(pair.model, 300)
    unharmed(watched)
