"""Whatever befalls a service of groups: whole groups only, within the budget, and at the end all is well and quiet.

The operator's real decisions in a small cluster with a clock (`group_world`); an operator may die between any two of
its writes.
"""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from group_world import GroupWorld
from ryzanstein_operator.decide import operation
from ryzanstein_operator.decide.groups import Group
from ryzanstein_operator.decide.plan import Apply, Delete, Plan

TIMEOUT = 20
SETTLE = 60


def world(nodes: int, *, replicas: int = 2, surge: int = 1, unavailable: int = 0, slots: int = 1) -> GroupWorld:
    disruption = {"maxSurge": surge, "maxUnavailable": unavailable, "drainSeconds": 5}
    spec = {
        "replicas": replicas,
        "disruption": disruption,
        "parallelism": {"placementTimeoutSeconds": TIMEOUT},
    }
    return GroupWorld({f"node-{number}": slots for number in range(nodes)}, spec)


class Watcher:
    """Looks at every visit and every second, and keeps what a rule of groups was broken by."""

    def __init__(self, seen: GroupWorld) -> None:
        self.world, self.faults = seen, list[str]()
        self._waited: dict[str, int] = {}
        self._due: datetime | None = seen.now
        self._known = ""

    def visit(self, only: int | None = None) -> Plan:
        before = self.world.groups()
        was_in_place = self._in_place()
        self._known = self.world.fingerprint()
        plan = self.world.visit(only=only)
        self._due = None if plan.again_after is None else self.world.now + timedelta(seconds=plan.again_after)
        if only is not None:  # one that is started anew visits everything
            self._due = self.world.now
        self._budget(plan, before)
        self._kept_ready(plan, before, was_in_place or self._in_place())
        return plan

    def run(self, seconds: int) -> None:
        """Visits as the loop makes them: after a change, and when the last plan said that time alone may change it."""
        for _ in range(seconds):
            due = self._due is not None and self.world.now >= self._due
            if due or self.world.fingerprint() != self._known:
                self.visit()
            self.world.tick()
            self._none_half_alive()

    def settle(self, seconds: int) -> None:
        """Until nothing has moved for a while and nothing is due, at most `seconds`."""
        quiet = 0
        for _ in range(seconds):
            known = self._known
            self.run(1)
            quiet = quiet + 1 if self._due is None and self._known == known else 0
            if quiet > 10:
                return

    def _in_place(self) -> bool:
        record = operation.read({"status": self.world.status})
        return record is not None and record.in_place

    def _budget(self, plan: Plan, before: tuple[Group, ...]) -> None:
        """No group is made beyond replicas + maxSurge, those included that are still on their way out."""
        made = [action for action in plan.actions if isinstance(action, Apply) and action.ref.kind == "StatefulSet"]
        made = [action for action in made if action.uid is None]
        now = self.world.now
        alive = [group for group in before if (group.leaving is None and not group.broken(now)) or group.holds(now)]
        wanted = self.world.spec["replicas"] + self.world.spec["disruption"]["maxSurge"]
        if made and len(alive) + len(made) > wanted:
            self.faults.append(f"{len(alive)} groups and {len(made)} made, of {wanted}")

    def _kept_ready(self, plan: Plan, before: tuple[Group, ...], in_place: bool) -> None:
        """What serves is ended by us only as far as maxUnavailable allows; in place, one besides."""
        ended = {action.ref.name for action in plan.actions if isinstance(action, Delete)}
        ready = [group for group in before if group.leaving is None and group.ready]
        left = [group for group in ready if group.name not in ended]
        allowed = max(self.world.spec["disruption"]["maxUnavailable"], int(in_place))
        floor = self.world.spec["replicas"] - allowed
        if len(left) < len(ready) and len(left) < floor:
            self.faults.append(f"{ended} ended, {len(left)} of {floor} ready are left")

    def _none_half_alive(self) -> None:
        """A group that waits for nodes while it holds some is given up in time; a second one gets one more chance."""
        if all(pod.node for pod in self.world.pods.values()):
            self._waited = {}
            return
        live = [group for group in self.world.groups() if group.leaving is None]
        waiting = {group.uid for group in live if group.waits_since and group.seated}
        self._waited = {uid: self._waited.get(uid, 0) + 1 for uid in waiting}
        late = [uid for uid, seconds in self._waited.items() if seconds > 2 * TIMEOUT + 10]
        if late:
            self.faults.append(f"{late} wait for half of their nodes")


def at_rest(seen: GroupWorld) -> None:
    """Every replica is ready, of the latest revision, and nothing is written any more."""
    living = [group for group in seen.groups() if group.leaving is None]
    assert [group.ready for group in living] == [True] * seen.spec["replicas"]
    assert "operation" not in seen.status
    assert seen.status["readyReplicas"] == seen.status["replicas"] == seen.spec["replicas"]
    assert seen.status["updatedReplicas"] == seen.spec["replicas"]
    assert seen.visit() == Plan()


def well(nodes: int, **shape: Any) -> tuple[GroupWorld, Watcher]:
    """A service that has come up."""
    seen = world(nodes, **shape)
    watcher = Watcher(seen)
    watcher.run(15)
    at_rest(seen)
    return seen, watcher


def placed(seen: GroupWorld) -> set[str]:
    """The groups that have all their nodes."""
    return {group.name for group in seen.groups() if group.leaving is None and group.placed}


def test_two_groups_that_hold_half_of_each_other_s_nodes_do_not_wait_for_ever() -> None:
    seen = world(3, replicas=2)  # three nodes, and both groups have got one before either gets its second
    watcher = Watcher(seen)
    watcher.run(TIMEOUT + 30)
    assert len(placed(seen)) == 1
    assert seen.status["lastFailure"]["reason"] == "GroupWithdrawn"
    seen.nodes["node-3"] = 1
    watcher.run(60)
    at_rest(seen)
    assert watcher.faults == []


def test_what_cannot_be_placed_is_tried_again_with_growing_pauses_and_holds_nothing_meanwhile() -> None:
    seen, watcher = well(2, replicas=1)
    seen.change(replicas=2)
    withheld, holding, pauses = 0, 0, []
    for _ in range(200):
        watcher.run(1)
        step = seen.status.get("operation", {}).get("step")
        capacity = {one["type"]: one for one in seen.status["conditions"]}["CapacityAvailable"]
        if step in ("Pause", "Withdraw"):
            withheld += 1
            pauses.append(seen.status["operation"]["tries"])
            assert (capacity["status"], capacity["reason"]) == ("False", "Unschedulable")
            assert "0 nodes are available" in capacity["message"]
        holding += sum(group.seated for group in seen.groups() if not group.placed)
    assert withheld > 10
    assert pauses.count(2) > pauses.count(1) > 5
    assert holding == 0  # both nodes are taken, so the second group never got one
    assert seen.status["readyReplicas"] == 1
    seen.nodes |= {"node-8": 1, "node-9": 1}
    watcher.run(300)
    at_rest(seen)
    assert watcher.faults == []


def test_a_rollout_with_room_never_has_less_ready_than_before() -> None:
    seen, watcher = well(6)
    seen.change(engine={"maxNumSeqs": 8})
    lowest = 2
    for _ in range(60):
        watcher.run(1)
        lowest = min(lowest, seen.status["readyReplicas"])
    at_rest(seen)
    assert lowest == 2
    assert watcher.faults == []


def test_a_rollout_without_room_drains_one_at_a_time_and_says_so() -> None:
    seen, watcher = well(4)
    seen.change(engine={"maxNumSeqs": 8})
    lowest, reasons, ready = 2, set(), set()
    for _ in range(120):
        watcher.run(1)
        lowest = min(lowest, seen.status["readyReplicas"])
        conditions = {one["type"]: one for one in seen.status["conditions"]}
        reasons.add(conditions["Progressing"]["reason"])
        ready.add(conditions["Ready"]["status"])
    at_rest(seen)
    assert lowest == 1
    assert "NoSpareCapacity" in reasons
    assert ready == {"True"}
    assert watcher.faults == []


def test_the_only_replica_is_replaced_in_place_where_there_is_no_room() -> None:
    seen, watcher = well(2, replicas=1)
    seen.change(engine={"maxNumSeqs": 8})
    watcher.run(120)
    at_rest(seen)
    assert watcher.faults == []


@pytest.mark.parametrize("nodes", [6, 4])
def test_a_group_on_a_lost_node_is_replaced_whole(nodes: int) -> None:
    seen, watcher = well(nodes)
    doomed = next(group for group in seen.groups() if group.members[0].node == "node-0")
    seen.lost.add("node-0")
    watcher.run(2)
    assert doomed.uid not in {group.uid for group in seen.groups() if group.leaving is None}
    assert seen.status["lastFailure"]["reason"] == "GroupReplaced"
    assert "node-0" in seen.status["lastFailure"]["message"]
    watcher.run(60)
    if nodes == 6:
        assert seen.status["readyReplicas"] == 2
    seen.lost.clear()  # it comes back, and what was left there ends
    watcher.run(300)
    at_rest(seen)
    assert watcher.faults == []


def test_a_dead_rank_restarts_its_group_and_is_no_operation_of_ours() -> None:
    seen, watcher = well(4)
    before = {group.uid for group in seen.groups()}
    seen.restart(next(iter(seen.pods)))
    for _ in range(10):
        watcher.run(1)
        assert "operation" not in seen.status
    at_rest(seen)
    assert {group.uid for group in seen.groups()} == before


def test_an_evicted_pod_that_finds_no_node_does_not_keep_its_group_half_alive() -> None:
    seen, watcher = well(4)
    first = seen.groups()[0]
    seen.nodes[first.members[1].node] = 0
    seen.evict(first.members[1].name)
    watcher.run(TIMEOUT + 15)
    assert first.uid not in {group.uid for group in seen.groups() if group.leaving is None}
    assert seen.status["readyReplicas"] == 1
    seen.nodes = dict.fromkeys(seen.nodes, 1)
    watcher.run(120)
    at_rest(seen)
    assert watcher.faults == []


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_scale_in_ends_whole_groups_those_that_do_not_serve_first(replicas: int) -> None:
    seen, watcher = well(6, replicas=3)
    idle = seen.groups()[0].name
    seen.evict(f"{idle}-1")
    seen.change(replicas=replicas)
    watcher.run(1)
    assert idle not in {group.name for group in seen.groups() if group.leaving is None}
    watcher.run(60)
    at_rest(seen)
    assert len(seen.pods) == 2 * replicas
    assert watcher.faults == []


def test_back_to_the_former_spec_takes_the_former_groups_again() -> None:
    seen, watcher = well(6)
    kept = {group.uid for group in seen.groups()}
    seen.change(engine={"maxNumSeqs": 8})
    watcher.run(2)
    seen.change(engine={})
    watcher.run(60)
    at_rest(seen)
    assert {group.uid for group in seen.groups()} == kept


STEPS = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 40)),
    st.tuples(st.just("restart"), st.integers(0, 5)),
    st.tuples(st.just("evict"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.integers(0, 4)),
    st.tuples(st.just("heal"), st.integers(0, 4)),
    st.tuples(st.just("forget"), st.integers(0, 4)),
    st.tuples(st.just("spec"), st.integers(1, 3)),
    st.tuples(st.just("scale"), st.integers(0, 3)),
    st.tuples(st.just("crash"), st.integers(0, 6)),
    st.tuples(st.just("slots"), st.integers(0, 2)),
)


def befall(seen: GroupWorld, watcher: Watcher, what: str, number: int) -> None:
    names = sorted(seen.pods)
    node = sorted(seen.nodes)[number % len(seen.nodes)]
    match what:
        case "run":
            watcher.run(number)
        case "restart" if names:
            seen.restart(names[number % len(names)])
        case "evict" if names:
            seen.evict(names[number % len(names)])
        case "lose":
            seen.lost.add(node)
        case "heal":
            seen.lost.discard(node)
        case "forget":
            seen.forget(node)
        case "spec":
            seen.change(engine={"maxNumSeqs": 8 * number})
        case "scale":
            seen.change(replicas=number)
        case "crash":
            watcher.visit(only=number)
        case "slots":
            seen.nodes[node] = number


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    steps=st.lists(STEPS, min_size=2, max_size=12),
    nodes=st.integers(2, 5),
    surge=st.integers(0, 2),
    unavailable=st.integers(0, 2),
)
def test_whatever_befalls_it_all_is_well_and_quiet_at_the_end(
    steps: list[tuple[str, int]], nodes: int, surge: int, unavailable: int
) -> None:
    seen = world(nodes, surge=max(surge, int(not unavailable)), unavailable=unavailable)
    watcher = Watcher(seen)
    for what, number in steps:
        befall(seen, watcher, what, number)
    seen.lost.clear()
    seen.nodes = {f"node-{number}": 2 for number in range(6)}
    watcher.settle(900)
    at_rest(seen)
    assert watcher.faults == []


@pytest.mark.parametrize("only", range(5))
def test_an_operator_that_dies_between_two_writes_makes_no_second_group(only: int) -> None:
    seen = world(6)
    watcher = Watcher(seen)
    for _ in range(8):
        watcher.visit(only=only)
        watcher.run(4)
    at_rest(seen)
    assert watcher.faults == []
