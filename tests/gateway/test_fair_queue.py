"""Who waits and who is next: fair among keys, higher classes first, nobody for ever, never more than the bound."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ryzanstein_gateway.fair_queue import AGED_TURN, Entry, FairQueue, Priority

NORMAL, LOW, HIGH = Priority.NORMAL, Priority.LOW, Priority.HIGH


def queue(bound: int = 1000) -> FairQueue[str]:
    return FairQueue(bound)


def push(one: FairQueue[str], key: str, priority: Priority = NORMAL, *, now: float = 0.0, cost: float = 1.0) -> bool:
    return one.push(key, key, priority, cost=cost, now=now, deadline=now + 30)[0] is not None


def drain(one: FairQueue[str]) -> list[str]:
    return [entry.item for entry in iter(one.pop, None)]


def test_of_one_key_first_come_is_first_served() -> None:
    one: FairQueue[str] = queue()
    for number in range(5):
        one.push(str(number), "a", NORMAL, now=number, deadline=100)
    assert drain(one) == ["0", "1", "2", "3", "4"]


def test_a_key_that_floods_waits_behind_itself() -> None:
    one = queue()
    for _ in range(500):
        push(one, "flood")
    for _ in range(3):
        push(one, "modest")
    assert drain(one)[:7].count("modest") == 3


@given(st.lists(st.integers(20, 60), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_keys_that_always_wait_get_equal_shares_whatever_each_asks_for(asked: list[int], dice: random.Random) -> None:
    keys = [f"key-{index}" for index, number in enumerate(asked) for _ in range(number)]
    dice.shuffle(keys)
    one = queue()
    for key in keys:
        push(one, key)
    shares = Counter(drain(one)[: 20 * len(asked)]).values()
    assert max(shares) - min(shares) <= 1


def test_what_is_shared_is_cost_and_not_number() -> None:
    one = queue()
    for _ in range(40):
        push(one, "long", cost=400)
        push(one, "short", cost=100)
    shares = Counter(drain(one)[:50])
    assert 38 <= shares["short"] <= 42


def test_a_newcomer_owes_nothing_for_the_time_before_it_came() -> None:
    one = queue()
    for _ in range(100):
        push(one, "old")
    for _ in range(50):
        one.pop()
    for _ in range(10):
        push(one, "new")
    shares = Counter(drain(one)[:20])
    assert 9 <= shares["new"] <= 10


def test_higher_goes_first_and_low_does_not_starve() -> None:
    one = queue()
    one.push("low", "a", LOW, now=0, deadline=1000)
    for number in range(3 * AGED_TURN):
        one.push("high", "b", HIGH, now=number + 1.0, deadline=1000)
    order = drain(one)
    assert order[: AGED_TURN - 1] == ["high"] * (AGED_TURN - 1)
    assert order[AGED_TURN - 1] == "low"


def test_a_full_queue_keeps_whoever_would_go_first() -> None:
    one = queue(bound=10)
    for _ in range(10):
        assert push(one, "flood")
    assert not push(one, "flood"), "its own last one is what it would have to push out"
    entry, left = one.push("modest", "modest", NORMAL, now=1, deadline=30)
    assert entry is not None
    assert left is not None
    assert left.key == "flood"
    entry, left = one.push("low", "other", LOW, now=1, deadline=30)
    assert (entry, left) == (None, None), "the lower class does not push out the higher"
    assert len(one) == 10
    assert queue(bound=0).push("x", "x", HIGH, now=0, deadline=1) == (None, None)


def test_who_is_ahead_is_counted_as_it_will_be_served() -> None:
    one = queue()
    for _ in range(100):
        push(one, "flood")
    for _ in range(4):
        push(one, "flood", HIGH)
    assert one.ahead("flood", NORMAL) == 104
    assert one.ahead("modest", NORMAL) <= 5
    assert one.ahead("modest", HIGH) <= 1
    assert one.ahead("modest", LOW) == 104


def test_deadlines_and_leaving_take_out_whom_they_concern_and_charge_nothing_for_it() -> None:
    one = queue()
    early = one.push("early", "a", NORMAL, now=0, deadline=5)[0]
    late = one.push("late", "b", LOW, now=0, deadline=10)[0]
    assert early is not None
    assert late is not None
    assert one.expire(4.9) == []
    assert one.expire(5) == [early]
    assert not one.remove(early)
    assert one.remove(late)
    assert len(one) == 0
    for key in ("a", "b"):
        for _ in range(100):
            entry = one.push(key, key, NORMAL, now=0, deadline=30)[0]
            assert entry is not None
            if key == "a":
                one.remove(entry)
    push(one, "a")
    assert drain(one).index("a") <= 1


@given(st.lists(st.tuples(st.sampled_from("apre"), st.sampled_from("abc"), st.sampled_from(Priority)), max_size=200))
def test_nothing_is_lost_doubled_or_beyond_the_bound(steps: list[tuple[str, str, Priority]]) -> None:
    one: FairQueue[int] = FairQueue(8)
    waiting: dict[int, Entry[int]] = {}
    for now, (step, key, priority) in enumerate(steps):
        if step == "a":
            entry, left = one.push(now, key, priority, now=now, deadline=now + 20)
            if left is not None:
                del waiting[left.item]
            if entry is not None:
                waiting[now] = entry
        elif step == "p":
            popped = one.pop()
            assert (popped is None) == (not waiting)
            if popped is not None:
                del waiting[popped.item]
        elif step == "r" and waiting:
            assert one.remove(waiting.pop(next(iter(waiting))))
        elif step == "e":
            for late in one.expire(now):
                assert late.deadline <= now
                del waiting[late.item]
        assert len(one) == len(waiting) <= 8
        assert all(one.length(kind) == sum(e.priority == kind for e in waiting.values()) for kind in Priority)
    assert sorted(entry.item for entry in iter(one.pop, None)) == sorted(waiting)
