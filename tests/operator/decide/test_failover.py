"""What follows from a lost node: a taint that touches nobody else's, each pod once by its UID, and patience."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from node_builders import CHAT, NOW, node, scene, seat, verdict, view
from ryzanstein_operator.decide.evidence import faults
from ryzanstein_operator.decide.failover import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, failover, lost_nodes
from ryzanstein_operator.decide.nodes import judge
from ryzanstein_operator.decide.observed import NodeVerdict, ReplicaView
from ryzanstein_operator.decide.plan import Delete, PatchTaints
from ryzanstein_operator.decide.scene import Scene, Tries

LOST = verdict("a", "NodeUnreachable", lost=True, shunned=True)
FAULTY = verdict("a", "AcceleratorFault", shunned=True)
NODES = (node("a"), node("b"))
SEATS = (
    seat("a1", "a"),
    seat("a2", "a"),
    seat("b1", "b"),
    seat("gone", "a", ending=True),
    seat("grouped", "a", group="chat-0"),
)
SICK = view("g", 2, a1=ReplicaView("a1", "NotReady", "words", 1.0, "XID 79"))


def deleted(looked: Scene, *verdicts: NodeVerdict) -> list[tuple[str, str]]:
    actions = failover(looked, {one.node: one for one in verdicts}).plan.actions
    return [(action.ref.name, action.uid) for action in actions if isinstance(action, Delete)]


def taints(looked: Scene, *verdicts: NodeVerdict) -> dict[str, list[Any]]:
    actions = failover(looked, {one.node: one for one in verdicts}).plan.actions
    return {one.ref.name: [taint["value"] for taint in one.taints] for one in actions if isinstance(one, PatchTaints)}


def test_all_pods_of_a_lost_node_go_by_their_uid_but_those_that_go_already_and_those_of_groups() -> None:
    assert deleted(scene(NODES, SEATS), LOST) == [("a1", "uid-a1"), ("a2", "uid-a2")]
    assert deleted(scene(NODES, SEATS), replace(LOST, lost=False)) == []


def test_with_a_bad_accelerator_only_those_go_that_say_so() -> None:
    assert deleted(scene(NODES, SEATS, SICK), FAULTY) == [("a1", "uid-a1")]
    assert deleted(scene(NODES, SEATS, view("g", 4)), FAULTY) == []
    assert deleted(scene(NODES, SEATS, SICK), replace(FAULTY, shunned=False)) == [], "too many at one time"


def test_groups_are_told_which_of_their_nodes_are_lost() -> None:
    said = faults(scene(NODES, SEATS, SICK))
    assert lost_nodes({"a": LOST}, {}, CHAT) == {"a": "words"}
    assert lost_nodes({"a": FAULTY}, said, CHAT) == {"a": "words"}
    assert lost_nodes({"a": FAULTY}, said, ("team", "other")) == {}
    assert lost_nodes({"a": replace(FAULTY, shunned=False)}, said, CHAT) == {}


def test_what_is_put_on_a_lost_node_all_the_same_is_deleted_with_ever_longer_pauses() -> None:
    tries, pauses, later = {}, [], 0.0
    for number in range(8):
        put_there = scene(NODES, (seat(f"a{number}", "a"),), later=later, tries=tries)
        found = failover(put_there, {"a": LOST})
        assert [action for action in found.plan.actions if isinstance(action, Delete)]
        tries, waited = dict(found.tries), 0.0
        while not deleted(scene(NODES, (seat("next", "a"),), later=later + waited, tries=tries), LOST):
            waited += 1.0
        pauses.append(waited)
        later += waited
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert max(pauses) == LONGEST_PAUSE_SECONDS
    waiting = failover(scene(NODES, (seat("next", "a"),), later=later - 3.0, tries=tries), {"a": LOST})
    assert waiting.plan.again_after == 1.0, "it is looked at again all the while"


def test_a_node_that_was_well_for_long_starts_with_a_clean_slate() -> None:
    old = {"a": Tries(7, NOW - timedelta(seconds=601))}
    assert deleted(scene(NODES, SEATS, tries=old), LOST)
    assert failover(scene(NODES, SEATS, tries=old), {}).tries == {}


@pytest.mark.parametrize(
    ("ours", "verdicts", "expected"),
    [
        ("", (LOST,), {"a": ["yes", "NodeUnreachable"]}),
        ("NodeUnreachable", (LOST,), {}),
        ("NodeUnreachable", (replace(LOST, reason="NodeNotReady"),), {}),
        ("NodeUnreachable", (replace(LOST, lost=False, well_since=NOW),), {}),
        ("NodeUnreachable", (FAULTY,), {"a": ["yes", "AcceleratorFault"]}),
        ("AcceleratorFault", (LOST,), {}),
        ("NodeUnreachable", (), {"a": ["yes"]}),
        ("", (replace(LOST, lost=False, shunned=False),), {}),
        ("a-person-s", (), {}),
    ],
)
def test_our_taint_stands_on_nodes_to_be_shunned_and_no_other_taint_is_touched(
    ours: str, verdicts: tuple[NodeVerdict, ...], expected: dict[str, list[str]]
) -> None:
    nodes = (node("a", ours=ours), node("b"))
    assert taints(scene(nodes, SEATS, taints=True), *verdicts) == expected
    assert taints(scene(nodes, SEATS, taints=False), *verdicts) == {}
    assert taints(scene(None, SEATS, taints=True), *verdicts) == {}


def test_a_taint_names_the_version_that_it_was_decided_on_and_comes_before_what_it_is_to_keep_off() -> None:
    actions = failover(scene(NODES, SEATS, taints=True), {"a": LOST}).plan.actions
    assert isinstance(actions[0], PatchTaints)
    assert actions[0].resource_version == "7"
    assert actions[0].taints[-1] == {
        "key": "ryzanstein.dev/unhealthy",
        "value": "NodeUnreachable",
        "effect": "NoSchedule",
    }
    assert all(isinstance(action, Delete) for action in actions[1:])


@pytest.mark.parametrize(
    ("looked", "restless"),
    [
        (scene(NODES, SEATS, view("g", 4)), False),
        (scene(NODES, SEATS, view("g", 3, a1="Unreachable")), False),
        (scene(NODES, SEATS, view("g", 2, a1="Unreachable", a2="Unreachable", grouped="Unreachable")), True),
        (scene(NODES, SEATS, before={"a": LOST}), True),
        (scene((node("a", ready="False"), NODES[1]), SEATS), True),
        (scene((node("a", ours="AcceleratorFault"), NODES[1]), (), taints=True), False),
        (scene((node("a", ready="Unknown"), NODES[1]), (), before={"a": replace(LOST, reason="NodeNotReady")}), False),
    ],
)
def test_nodes_are_looked_at_each_second_only_while_time_alone_may_change_something(
    looked: Scene, restless: bool
) -> None:
    assert failover(looked, judge(looked)).plan.again_after == (1.0 if restless else None)
