"""One model's line: who goes on, waits or is turned away; and what that makes of an overload, in simulated time."""

import heapq
import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from ryzanstein_gateway.balance import Candidate, Endpoint, Load
from ryzanstein_gateway.fair_queue import Entry, Priority
from ryzanstein_gateway.line import Capacity, Line, Turned, Why, capacity_of

NORMAL = Priority.NORMAL


def line(*, bound: int = 10, timeout: float = 30.0, members: int = 1) -> Line[str]:
    return Line(bound=bound, timeout=timeout, members=members)


def wait(one: Line[str], item: str, capacity: Capacity, now: float, key: str = "a") -> Entry[str] | Turned:
    return one.wait(item, key, NORMAL, capacity, cost=1.0, now=now, deadline=now + one.timeout)[0]


def replica(host: str, *, tier: int = 0, **load: float) -> Candidate:
    return Candidate(Endpoint(host), load=Load(**load) if load else None, tier=tier)  # type: ignore[arg-type]


def test_capacity_is_what_the_best_replicas_take_and_unknown_where_one_does_not_say() -> None:
    assert capacity_of([]) == Capacity(0)
    known = replica("a", max_num_seqs=64, running=40, waiting=2, in_flight=30)
    assert capacity_of([known]) == Capacity(1, 80, 12)
    assert capacity_of([known, replica("b", max_num_seqs=2, running=1, in_flight=1)]) == Capacity(2, 83, 12)
    assert capacity_of([known, replica("bad", tier=1, max_num_seqs=64)]) == Capacity(2, 80, 12)
    for silent in (replica("b"), replica("b", max_num_seqs=0)):
        assert capacity_of([known, silent]).slots is None
    stale = replica("b", max_num_seqs=8, running=8, age_seconds=60)
    assert capacity_of([known, stale]) == Capacity(2, 90, 12), "what it takes is known, what it has is not"


def test_room_is_what_others_leave_and_never_less_than_an_equal_share() -> None:
    assert Capacity(0).room(0, 1) == 0
    assert Capacity(1).room(10_000, 1) == float("inf")
    assert Capacity(2, 80, 0).room(10, 1) == 70
    assert Capacity(2, 80, 30).room(10, 4) == 40
    assert Capacity(2, 80, 80).room(10, 4) == 10, "the others have taken all: an equal share is one's own still"
    assert Capacity(2, 80, 80).room(25, 4) < 0


def test_a_request_goes_on_while_there_is_room_and_else_waits_its_turn() -> None:
    one, capacity = line(), Capacity(1, 2)
    assert one.enter(capacity)
    assert one.enter(capacity)
    assert not one.enter(capacity)
    assert isinstance(wait(one, "third", capacity, 0.0), Entry)
    one.leave()
    assert not one.enter(capacity), "who comes later does not go first"
    entry = one.go_on(capacity, 0.1)
    assert entry is not None
    assert entry.item == "third"
    assert one.go_on(capacity, 0.1) is None
    one.leave()
    assert one.enter(capacity)


def test_with_no_replica_requests_wait_until_one_comes_or_their_time_is_over() -> None:
    one = line(bound=2)
    assert not one.enter(Capacity(0))
    assert isinstance(wait(one, "a", Capacity(0), 0.0), Entry)
    assert isinstance(wait(one, "b", Capacity(0), 20.0), Entry)
    full = wait(one, "c", Capacity(0), 20.0)
    assert isinstance(full, Turned)
    assert full.why is Why.NO_REPLICA
    late, told = one.expire(Capacity(0), 30.0)
    assert [entry.item for entry in late] == ["a"]
    assert told.why is Why.NO_REPLICA
    entry = one.go_on(Capacity(1), 31.0)
    assert entry is not None
    assert entry.item == "b"


def test_who_would_wait_too_long_is_told_at_once_and_when_to_come_again() -> None:
    one, capacity = line(bound=1000, timeout=10), Capacity(1, 1)
    assert one.enter(capacity)
    for number in range(100):
        assert isinstance(wait(one, str(number), capacity, 0.0), Entry)
    for second in range(1, 6):  # one a second goes on
        one.leave()
        assert one.go_on(capacity, float(second)) is not None
    turned = wait(one, "late", capacity, 5.0)
    assert isinstance(turned, Turned)
    assert turned.why is Why.TOO_LATE
    assert 60 < turned.seconds < 130  # 95 are ahead of it
    assert isinstance(wait(one, "other", capacity, 5.0, key="b"), Entry), "another key has nobody ahead of it"


@dataclass
class Outcome:
    """What became of the requests of one key."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    """Arrival and wait of each that went on."""
    turned: int = 0


@dataclass
class Simulation:
    """Replicas with `slots` places and `service` seconds a request, behind one line, in simulated time."""

    slots: int = 32
    service: float = 2.0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def capacity(self) -> float:
        """Requests a second."""
        return self.slots / self.service

    def run(self, one: Line[tuple[str, float]], arrivals: list[tuple[float, str]]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = defaultdict(Outcome)
        ends: list[float] = []
        places = Capacity(1, self.slots)

        def begin(key: str, arrived: float, now: float) -> None:
            outcomes[key].waits.append((arrived, now - arrived))
            heapq.heappush(ends, now + self.dice.uniform(0.5, 1.5) * self.service)

        def turn(now: float) -> None:
            for late in one.expire(places, now)[0]:
                outcomes[late.key].turned += 1
            while (entry := one.go_on(places, now)) is not None:
                begin(entry.key, entry.arrived, now)

        for now, key in sorted(arrivals):
            while ends and ends[0] <= now:
                ended = heapq.heappop(ends)
                one.leave()
                turn(ended)
            turn(now)
            if one.enter(places):
                begin(key, now, now)
                continue
            got, left = one.wait((key, now), key, NORMAL, places, cost=1.0, now=now, deadline=now + one.timeout)
            outcomes[key].turned += isinstance(got, Turned)
            if left is not None:
                outcomes[left.key].turned += 1
        return outcomes

    def arrivals(self, key: str, per_second: float, begin: float, end: float) -> list[tuple[float, str]]:
        steps = itertools.accumulate(iter(lambda: self.dice.expovariate(per_second), None), initial=begin)
        return [(time, key) for time in itertools.takewhile(lambda time: time < end, steps)]


@pytest.mark.parametrize(("bound", "timeout"), [(256, 30.0), (100_000, 30.0), (100_000, 6.0)])
def test_five_times_the_load_keeps_the_wait_the_throughput_and_the_modest_and_is_soon_over(
    bound: int, timeout: float
) -> None:
    world = Simulation()
    flooded = 90.0
    arrivals = world.arrivals("flood", 5 * world.capacity, 0.0, flooded)
    arrivals += world.arrivals("flood", 0.5 * world.capacity, flooded, flooded + 60)
    arrivals += world.arrivals("modest", 0.1 * world.capacity, 0.0, flooded + 60)
    outcomes = world.run(Line(bound=bound, timeout=timeout, members=1), arrivals)
    flood, modest = outcomes["flood"], outcomes["modest"]
    everyone = sorted(flood.waits + modest.waits)

    waits = sorted(wait for _, wait in everyone)
    assert waits[int(0.99 * len(waits))] <= timeout
    steady = sorted(wait for arrived, wait in everyone if flooded / 2 < arrived < flooded)
    assert steady[int(0.99 * len(steady))] <= timeout / 2, "a burst may fill the line, overload may not keep it full"

    served = sum(arrived + wait < flooded for arrived, wait in everyone)
    assert served >= 0.95 * world.capacity * flooded
    assert flood.turned > 3 * world.capacity * flooded, "the load was no overload: nothing is shown"

    assert modest.turned == 0, "who asks for less than a fair share loses nothing by another's flood"
    assert max(wait for _, wait in modest.waits) < 1.0

    after = [(arrived, wait) for arrived, wait in everyone if arrived > flooded + 10]
    assert max(wait for _, wait in after) < 1.0, "ten seconds later nobody waits"


def test_a_burst_that_can_be_served_in_time_is_served_whole() -> None:
    world = Simulation()
    burst = [(1.0, "a")] * round(20 * world.capacity)
    rest = world.arrivals("b", 0.3 * world.capacity, 0.0, 60.0)
    outcomes = world.run(Line(bound=1000, timeout=30.0, members=1), burst + rest)
    assert outcomes["a"].turned == 0
    assert outcomes["b"].turned == 0


@pytest.mark.parametrize("service", [8.0, 60.0])
def test_requests_that_take_long_and_leave_in_bursts_are_not_taken_for_a_line_that_stands_still(service: float) -> None:
    world = Simulation(slots=8, service=service)
    arrivals = [(0.3 * number, "a") for number in range(32)] + [(service * 1.2 + number, "a") for number in range(24)]
    outcomes = world.run(Line(bound=256, timeout=600.0, members=1), arrivals)
    assert outcomes["a"].turned == 0
