"""A drain takes one replica at a time, those that serve nobody first, and waits for the replacement."""

import pytest

import operator_builders as build
from ryzanstein_kubectl.model.drain import Target, batches, parse_target, progress, ready_replicas, replica_pods
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_kubectl.model.pages import Load, StatusPage
from ryzanstein_kubectl.model.snapshot import PodKey, Snapshot
from ryzanstein_worker import contract

LIVE = build.service(replicas=2)
CHAT = ("team", "chat")


def grouped(name: str, count: int) -> list[dict]:
    pods = [build.ready_pod(LIVE, f"{name}-{index}") for index in range(count)]
    for index, pod in enumerate(pods):
        pod["metadata"]["labels"] |= {contract.LABEL_GROUP: name, contract.LABEL_POD_INDEX: str(index)}
    return pods


def snap(*pods: dict, replicas: int = 2, pages: dict | None = None) -> Snapshot:
    return Snapshot(build.NOW, (build.service(replicas=replicas),), pods=pods, pages=pages or {})


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("pod/chat-a", Target("pod", "chat-a")),
        ("no/n1", Target("node", "n1")),
        ("chat/x7k", Target("replica", "x7k", "chat")),
    ],
)
def test_targets_are_read(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["chat", "/a", "pod/", "a/b/c", ""])
def test_a_wrong_target_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(CommandError, match="write pod/NAME, node/NAME or SERVICE/REPLICA"):
        parse_target(text)


def test_those_that_serve_nobody_or_go_already_come_first_and_a_groups_pods_together() -> None:
    leaving = build.ready_pod(LIVE, "chat-z")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    pods = [build.ready_pod(LIVE, "chat-a"), build.pod(LIVE, "chat-b"), *reversed(grouped("chat-g-0", 2)), leaving]
    found = batches(pods)
    assert [batch.replica for batch in found] == ["chat-b", "chat-z", "chat-a", "chat-g-0"]
    assert [pod["metadata"]["name"] for pod in found[3].pods] == ["chat-g-0-0", "chat-g-0-1"]


def test_a_replica_is_found_by_its_name_or_its_end_and_of_a_group_the_leader_goes() -> None:
    pods = [build.ready_pod(LIVE, "chat-5d-aa"), build.ready_pod(LIVE, "chat-5d-bb"), *grouped("chat-g-0", 2)]
    for name, found in (("bb", ["chat-5d-bb"]), ("chat-5d-aa", ["chat-5d-aa"]), ("g-0", ["chat-g-0-0"])):
        chosen = replica_pods(Target("replica", name, "chat"), pods)
        assert [pod["metadata"]["name"] for pod in chosen] == found
    with pytest.raises(CommandError, match="its replicas: chat-5d-aa, chat-5d-bb, chat-g-0"):
        replica_pods(Target("replica", "cc", "chat"), pods)
    pods[1]["metadata"]["name"] = "chat-6e-aa"
    with pytest.raises(CommandError, match="Several replicas of chat end with aa: chat-5d-aa, chat-6e-aa"):
        replica_pods(Target("replica", "aa", "chat"), pods)


def test_it_is_done_when_the_pod_is_gone_and_as_many_are_ready_as_before() -> None:
    first, second, third = (build.ready_pod(LIVE, f"chat-{letter}") for letter in "abc")
    (batch,) = batches([first])
    page = StatusPage("draining", "", "e1", Load(3, 1, 0.5))
    going = {**first, "metadata": {**first["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}}
    starting = build.unscheduled_pod(LIVE, "0/3 nodes are available", "chat-c")
    states = [
        progress(batch, 2, snap(going, second, pages={PodKey("team", "chat-a"): page})),
        progress(batch, 2, snap(going, second)),
        progress(batch, 2, snap(second, starting)),
        progress(batch, 2, snap(second, third)),
    ]
    assert [(state.gone, state.whole) for state in states] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
    ]
    assert states[0].words == "4 requests left"
    assert states[2].words == "gone; 1 of 2 replicas ready: chat-c 0/3 nodes are available"


def test_a_service_that_is_scaled_down_or_deleted_meanwhile_is_not_waited_for() -> None:
    (batch,) = batches([build.ready_pod(LIVE, "chat-a")])
    second = build.ready_pod(LIVE, "chat-b")
    assert not progress(batch, 2, snap(second)).whole
    assert progress(batch, 2, snap(second, replicas=1)).whole
    assert progress(batch, 2, Snapshot(build.NOW)).whole


def test_a_group_counts_by_its_leader() -> None:
    pods = grouped("chat-g-0", 3)
    assert ready_replicas(pods, CHAT) == 1
    assert ready_replicas(pods[1:], CHAT) == 0
