"""Which nodes are given up: only with two witnesses, never too many at one time, and until they are well again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_builders import CHAT, NOW, lost_in, node, scene, seat, verdict, view
from ryzanstein_operator.decide.nodes import (
    AT_ONE_TIME_SECONDS,
    NOT_READY_SECONDS,
    SHARE,
    SILENT_SECONDS,
    SILENT_SECONDS_UNASKED,
    UNKNOWN_SECONDS,
    WELL_SECONDS,
    controls,
    judge,
    seeds,
    suspects,
)
from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_operator.decide.scene import Scene, Seat

A, B, C = node("a"), node("b"), node("c")
NODES = (A, B, C)
SEATS = (seat("a1", "a"), seat("b1", "b"), seat("c1", "c"))
ONE_SEES = view("g1", 2, a1="Unreachable")
LEADER = seat("l", "b", group="chat-0", leads=True)
FOLLOWER = seat("f", "a", group="chat-0", leads=False)
GROUP = (LEADER, FOLLOWER, seat("x", "c"))


def row(pod: str, state: str = "Unreachable", seconds: float = 4.0, fault: str = "") -> ReplicaView:
    return ReplicaView(pod, state, "words", seconds, fault)


FAULTY = view("g1", 2, a1=row("a1", "NotReady", fault="XID 79"))

JUDGED: dict[str, tuple[Scene, set[str]]] = {
    "all is well": (scene(NODES, SEATS, view("g1", 3)), set()),
    "nobody has said anything": (scene(NODES, SEATS, silent=("a",)), set()),
    "gateways and kubelet agree": (scene(NODES, SEATS, ONE_SEES, silent=("a",)), {"a"}),
    "its kubelet answers": (scene(NODES, SEATS, ONE_SEES, answered=("a", "b")), set()),
    "its kubelet was not asked": (scene(NODES, SEATS, ONE_SEES), set()),
    "no kubelet answers: the way is barred": (scene(NODES, SEATS, ONE_SEES, silent=("a", "b"), answered=()), set()),
    "not long enough": (
        scene(NODES, SEATS, view("g1", 2, a1=row("a1", seconds=SILENT_SECONDS - 0.1)), silent=("a",)),
        set(),
    ),
    "another gateway reaches it": (scene(NODES, SEATS, ONE_SEES, view("g2", 3), silent=("a",)), set()),
    "two gateways agree": (
        scene(NODES, SEATS, ONE_SEES, view("g2", 2, a1="Unreachable"), silent=("a",)),
        {"a"},
    ),
    "a gateway that reaches nothing is no witness for": (
        scene(NODES, SEATS, view("g1", 3), view("g2", 0, a1="Unreachable", b1="Unreachable"), silent=("a",)),
        set(),
    ),
    "nor does it speak against the others' word": (
        scene(NODES, SEATS, ONE_SEES, view("g2", 0, b1="Unreachable"), silent=("a",)),
        {"a"},
    ),
    "the only replica there is: all gateways reach nothing, the kubelet decides": (
        scene(NODES, SEATS[:1], view("g1", 0, a1="Unreachable"), silent=("a",)),
        {"a"},
    ),
    "another replica on it answers": (
        scene(NODES, (*SEATS, seat("a2", "a")), ONE_SEES, silent=("a",)),
        set(),
    ),
    "another replica on it only starts": (
        scene(NODES, (*SEATS, seat("a2", "a", ready=False)), ONE_SEES, silent=("a",)),
        {"a"},
    ),
    "overloaded": (scene(NODES, SEATS, view("g1", 2, a1="Lagging"), silent=("a",)), set()),
    "refused: something answers there": (scene(NODES, SEATS, view("g1", 2, a1="Refused"), silent=("a",)), set()),
    "not ready": (scene(NODES, SEATS, view("g1", 2, a1="NotReady"), silent=("a",)), set()),
    "draining": (scene(NODES, SEATS, view("g1", 2, a1="Draining"), silent=("a",)), set()),
    "a pod that ends may be silent": (
        scene(NODES, (seat("a1", "a", ending=True), *SEATS[1:]), ONE_SEES, silent=("a",)),
        set(),
    ),
    "two of three at one time are too many": (
        scene(NODES, SEATS, view("g1", 1, a1="Unreachable", b1="Unreachable"), silent=("a", "b")),
        set(),
    ),
    "a second one after the first is too many as well": (
        scene(
            NODES,
            SEATS,
            view("g1", 1, b1="Unreachable"),
            silent=("a", "b"),
            before={"a": verdict("a", "NodeUnreachable", lost=True, shunned=True)},
        ),
        {"a"},
    ),
    "a follower's node, when its leader finds no peers": (
        scene(NODES, GROUP, view("g1", 1, l="NotReady"), silent=("a",), answered=("b",)),
        {"a"},
    ),
    "not while the leader merely lags": (
        scene(NODES, GROUP, view("g1", 1, l="Lagging"), silent=("a",), answered=("b",)),
        set(),
    ),
    "nor while the leader is sound": (scene(NODES, GROUP, view("g1", 2), silent=("a",), answered=("b",)), set()),
    "without kubelets: after longer": (
        scene(None, SEATS, view("g1", 2, a1=row("a1", seconds=SILENT_SECONDS_UNASKED)), answered=()),
        {"a"},
    ),
    "without kubelets: not so soon": (scene(None, SEATS, ONE_SEES, answered=()), set()),
    "without kubelets: not by gateways that reach nothing": (
        scene(None, SEATS[:1], view("g1", 0, a1=row("a1", seconds=60.0)), answered=()),
        set(),
    ),
    "without kubelets: not a follower's": (
        scene(None, GROUP, view("g1", 1, l=row("l", "NotReady", 60.0)), answered=()),
        set(),
    ),
    "Kubernetes has just called it unknown": (scene((node("a", ready="Unknown"), B, C), SEATS), set()),
    "an accelerator is bad: the node itself is not lost": (scene(NODES, SEATS, FAULTY), set()),
}


@pytest.mark.parametrize("title", JUDGED)
def test_a_node_is_given_up_only_for_good_reasons(title: str) -> None:
    looked, lost = JUDGED[title]
    assert lost_in(looked) == lost


@pytest.mark.parametrize(("ready", "patience"), [("Unknown", UNKNOWN_SECONDS), ("False", NOT_READY_SECONDS)])
def test_kubernetes_word_is_believed_after_a_while(ready: str, patience: float) -> None:
    nodes = (node("a", ready=ready, words="PLEG was active 3 s ago"), B)
    first = judge(scene(nodes, SEATS[:2]))
    assert (first["a"].reason, first["a"].lost) == ("NodeNotReady", False)
    assert "PLEG was active 3 s ago" in first["a"].message
    assert not judge(scene(nodes, SEATS[:2], before=first, later=patience - 0.1))["a"].lost
    late = judge(scene(nodes, SEATS[:2], before=first, later=patience))["a"]
    assert (late.lost, late.shunned, late.since) == (True, True, NOW)


def test_while_no_node_is_ready_none_is_given_up() -> None:
    nodes = (node("a", ready="Unknown"), node("b", ready="Unknown"))
    first = judge(scene(nodes, SEATS[:2]))
    assert lost_in(scene(nodes, SEATS[:2], before=first, later=600)) == set()


def test_nodes_without_replicas_of_ours_are_none_of_our_business() -> None:
    assert judge(scene((node("x", ready="False"), *NODES), SEATS, view("g1", 3))) == {}


def test_words_that_differ_in_numbers_alone_stay_as_they_are() -> None:
    first = judge(scene((node("a", ready="False", words="silent for 3m5.2s"), B), SEATS[:2]))
    again = judge(scene((node("a", ready="False", words="silent for 4m1.9s"), B), SEATS[:2], before=first))
    other = judge(scene((node("a", ready="False", words="disk is full"), B), SEATS[:2], before=first))
    assert again == first
    assert "disk is full" in other["a"].message


def test_too_many_at_one_time_are_told_of_and_left_alone_until_they_are_fewer() -> None:
    both = scene(NODES, SEATS, view("g1", 1, a1="Unreachable", b1="Unreachable"), silent=("a", "b"))
    held = judge(both)
    assert [(one.lost, one.shunned) for one in held.values()] == [(False, False)] * 2
    assert all("so are 2 of 3 nodes" in one.message for one in held.values())
    assert judge(replace(both, before=held)) == held
    one = judge(replace(scene(NODES, SEATS, ONE_SEES, silent=("a",)), before=held))
    assert (one["a"].lost, "so are" in one["a"].message) == (True, False)


def test_a_node_that_was_given_up_stays_so_until_its_kubelet_has_answered_for_a_while() -> None:
    given = judge(scene(NODES, SEATS, ONE_SEES, silent=("a",)))
    gone = (seat("a1", "a", ending=True, terminating=True), *SEATS[1:])
    silent = scene(NODES, gone, view("g1", 2), silent=("a",), before=given, later=60)
    assert judge(silent) == given
    assert judge(replace(silent, kubelets={}))["a"].lost, "not asked is no answer"
    back = judge(scene(NODES, gone, view("g1", 2), answered=("a",), before=given, later=60))
    assert (back["a"].lost, back["a"].shunned, back["a"].well_since) == (False, True, NOW + timedelta(seconds=60))
    relapsed = judge(scene(NODES, gone, view("g1", 2), silent=("a",), before=back, later=65))
    assert (relapsed["a"].lost, relapsed["a"].well_since) == (True, None)
    well = scene(NODES, gone, view("g1", 2), answered=("a",), before=back, later=60 + WELL_SECONDS)
    assert judge(well) == {}


def test_one_that_kubernetes_calls_not_ready_in_the_end_keeps_its_beginning_and_is_well_when_it_is_ready() -> None:
    given = judge(scene(NODES, SEATS, ONE_SEES, silent=("a",)))
    unready = judge(scene((node("a", ready="Unknown"), B, C), SEATS, before=given, later=45))
    assert (unready["a"].reason, unready["a"].lost, unready["a"].since) == ("NodeNotReady", True, NOW)
    ready = judge(scene(NODES, SEATS, before=unready, later=100))
    assert (ready["a"].lost, ready["a"].shunned) == (False, True)
    assert judge(scene(NODES, SEATS, before=ready, later=100 + WELL_SECONDS)) == {}


def test_a_pod_that_came_later_and_is_up_shows_that_the_node_lives() -> None:
    given = judge(scene(NODES, SEATS, ONE_SEES, silent=("a",)))
    newer = seat("a2", "a", created="2026-01-02T03:10:00Z")
    found = judge(scene(NODES, (*SEATS[1:], newer), view("g1", 3), silent=("a",), before=given, later=600))
    assert not found["a"].lost


def test_without_kubelets_a_node_is_well_when_it_has_let_go_of_its_pods() -> None:
    given = {"a": verdict("a", "NodeUnreachable", lost=True, shunned=True)}
    hanging = (seat("a1", "a", ending=True, terminating=True), *SEATS[1:])
    assert lost_in(scene(None, hanging, view("g1", 2), before=given, later=60)) == {"a"}
    assert lost_in(scene(None, SEATS[1:], view("g1", 2), before=given, later=60)) == set()


def test_a_bad_accelerator_stays_until_its_taint_is_taken_away_by_a_person() -> None:
    told = judge(scene(NODES, SEATS, FAULTY, taints=True))
    assert (told["a"].reason, told["a"].shunned, told["a"].tainted) == ("AcceleratorFault", True, False)
    assert "a1: XID 79; the taint ryzanstein.dev/unhealthy stays on the node until a person" in told["a"].message
    untold = judge(scene(NODES, SEATS[1:], view("g1", 2), taints=True, before=told))
    assert untold["a"].shunned, "the taint has not been seen yet"
    tainted = (node("a", ours="AcceleratorFault"), B, C)
    standing = judge(scene(tainted, SEATS[1:], view("g1", 2), taints=True, before=untold, later=9999))
    assert standing["a"].tainted
    assert judge(scene(NODES, SEATS[1:], view("g1", 2), taints=True, before=standing)) == {}


def test_who_holds_no_accelerator_has_none_that_is_bad() -> None:
    plain = (replace(SEATS[0], accelerated=False), *SEATS[1:])
    assert judge(scene(NODES, plain, FAULTY, taints=True)) == {}


def test_without_taints_a_bad_accelerator_lasts_as_long_as_a_replica_says_so() -> None:
    told = judge(scene(NODES, SEATS, FAULTY))
    assert "counted on again once no replica says so" in told["a"].message
    assert judge(scene(NODES, SEATS[1:], view("g1", 2), before=told)) == {}


def test_accelerators_that_fail_everywhere_at_once_are_told_of_and_nothing_more() -> None:
    rows = {pod: row(pod, "NotReady", fault="XID 79") for pod in ("a1", "b1", "c1")}
    found = judge(scene(NODES, SEATS, view("g1", 0, **rows)))
    assert {one.shunned for one in found.values()} == {False}
    later = judge(scene(NODES, SEATS, view("g1", 0, **rows), before=found, later=10 * AT_ONE_TIME_SECONDS))
    assert later == found


@pytest.mark.parametrize(("seconds", "lost"), [(AT_ONE_TIME_SECONDS - 1, set()), (AT_ONE_TIME_SECONDS, {"a"})])
def test_an_accelerator_that_broke_long_ago_keeps_no_node_from_being_given_up(seconds: float, lost: set[str]) -> None:
    nodes = (A, B, node("c", ours="AcceleratorFault"))
    before = {"c": verdict("c", "AcceleratorFault", shunned=True, tainted=True)}
    looked = scene(nodes, SEATS[:2], view("g1", 1, a1="Unreachable"), silent=("a",), before=before, taints=True)
    assert lost_in(replace(looked, now=NOW + timedelta(seconds=seconds))) == lost


def test_an_operator_that_begins_knows_what_the_one_before_it_knew() -> None:
    entry = {"name": "a", "reason": "NodeUnreachable", "message": "words", "since": "2026-01-02T03:00:00Z"}
    foreign = entry | {"name": "z", "reason": "Tired"}
    services = [{"status": {"unhealthyNodes": [entry, foreign]}}, {}]
    found = seeds(services, {"b": node("b", ours="AcceleratorFault"), "c": node("c", ours="NodeNotReady")}, NOW)
    assert (found["a"].lost, found["a"].since.minute) == (True, 0)
    assert (found["b"].lost, found["b"].shunned, found["b"].tainted) == (False, True, True)
    assert (found["c"].reason, found["c"].lost) == ("NodeNotReady", True)
    assert set(found) == {"a", "b", "c"}
    assert seeds([], {"a": node("a", ours="somebody-elses-word")}, NOW) == {}


def test_only_the_doubted_are_asked_and_some_that_are_not_besides() -> None:
    looked = scene((*NODES, node("d", ready="False"), node("e")), SEATS, view("g1", 2, a1=row("a1", seconds=0.5)))
    assert suspects(looked) == ("a",)
    assert controls(looked, ("a",)) == ("b", "c", "e")
    assert suspects(scene(NODES, SEATS, view("g1", 3))) == ()


STATES = st.sampled_from(["Unreachable", "Refused", "Lagging", "NotReady", "Draining", ""])


@st.composite
def worlds(draw: st.DrawFn) -> Scene:
    """Any number of nodes, pods and gateways, any views, any answers of kubelets."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 8)))]
    seats = tuple(
        seat(f"p{number}", draw(st.sampled_from(names)), ready=draw(st.booleans()), ending=draw(st.integers(0, 4)) == 0)
        for number in range(draw(st.integers(1, 10)))
    )
    views = tuple(_drawn(draw, f"g{number}", seats) for number in range(draw(st.integers(0, 3))))
    answers = draw(st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in names}))
    nodes = tuple(node(name) for name in names) if draw(st.booleans()) else None
    return Scene(
        nodes=None if nodes is None else {one.name: one for one in nodes},
        seats=seats,
        views={CHAT: views} if views else {},
        before={},
        taints=False,
        now=NOW,
        kubelets={name: answer for name, answer in answers.items() if answer is not None},
    )


def _drawn(draw: st.DrawFn, sender: str, seats: tuple[Seat, ...]) -> ServiceView:
    states = {one.name: draw(STATES) for one in seats}
    seconds = st.sampled_from([0.0, 2.9, 3.0, 11.0])
    rows = tuple(ReplicaView(pod, state, "", draw(seconds)) for pod, state in states.items() if state)
    return ServiceView(sender, len(seats) - len(rows), rows)


@settings(max_examples=300)
@given(worlds())
def test_there_is_no_false_alarm(world: Scene) -> None:
    """Whatever is seen: a node is only lost if no trusted gateway has a sign of life from it, if its kubelet is silent
    while another answers, and never are more lost than the share allows."""
    lost = lost_in(world)
    (views,) = world.views.values() or ((),)
    for name in lost:
        if world.nodes is not None:
            assert world.kubelets[name] is False
            assert any(world.kubelets.values())
        there = [one for one in world.seats if one.node == name and not one.ending]
        trusted = [one for one in views if one.sound] or views
        for one in there:
            for told in trusted:
                state = {found.address: found.state for found in told.replicas}.get(one.name)
                assert state == "Unreachable" or (state is None and not one.ready)
        assert any(told.replicas for told in trusted)
    assert len(lost) <= max(1, len({one.node for one in world.seats}) // SHARE)
