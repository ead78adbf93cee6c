"""Windows and policies are HPA's, with its defaults, its documented examples and its order."""

import itertools
import random

import pytest

from plain_hpa import PlainHpa
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.pace import MOST, least, most, remembered
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Memory
from scale_builders import TOKENS, WAITING, Loop, policy, scaled, seen

NO_WINDOW = {"stabilizationWindowSeconds": 0}


def test_by_default_the_size_doubles_or_grows_by_four_every_15_seconds() -> None:
    loop = Loop(scaled(WAITING))
    assert loop.steady(4000, seconds=90) == [5, 10, 20, 40, 80, 100]


def test_by_default_all_may_go_at_once_after_five_minutes() -> None:
    loop = Loop(scaled(WAITING), current=40)
    assert set(loop.steady(0, seconds=300)) == {40}
    assert loop.step(0).replicas == 1


@pytest.mark.parametrize("seed", range(20))
def test_with_the_defaults_every_size_is_that_of_hpa(seed: int) -> None:
    """Of one written apart from our code, over a walk of loads with all replicas ready at each sync."""
    chance = random.Random(seed)
    high = chance.choice([5, 20, 60])
    loop = Loop(scaled(WAITING, TOKENS, maxReplicas=high), current=chance.randint(1, high))
    hpa, size, waiting = PlainHpa(1, high), loop.current, 0
    for _ in range(100):
        waiting = max(0, waiting + chance.choice([-20, -3, 0, 0, 3, 25]))
        tokens = chance.uniform(0, 100 * high * chance.choice([0.3, 1, 1.2]))
        size = hpa.size(size, [(waiting, 4), (tokens, 100)], loop.now)
        assert loop.step(waiting, tokens).replicas == size


def test_decisions_in_between_do_not_add_to_what_a_period_allows() -> None:
    loop = Loop(scaled(WAITING))
    assert loop.steady(4000, seconds=15, every=1) == [5] * 15
    assert loop.steady(4000, seconds=15, every=1) == [10] * 15


def test_kubernetes_example_ten_percent_or_four_a_minute() -> None:
    """From its documentation: of 80 first 8 go, of 72 again 8 (7.2, rounded up); from 40 on 4 at a time."""
    rules = {**NO_WINDOW, "policies": [policy("Replicas", 4, 60), policy("Percent", 10, 60)]}
    loop = Loop(scaled(WAITING, down=rules, minReplicas=10), current=80)
    loop.step(400)
    sizes = loop.steady(0, seconds=60 * 15, every=60)
    assert sizes[:2] == [72, 64]
    below = [size for size in sizes if size <= 40]
    assert all(a - b == 4 for a, b in itertools.pairwise(below) if b > 10)
    assert sizes[-1] == 10


def test_kubernetes_example_the_least_of_several_policies() -> None:
    rules = {**NO_WINDOW, "selectPolicy": "Min", "policies": [policy("Replicas", 5, 60), policy("Percent", 10, 60)]}
    loop = Loop(scaled(WAITING, down=rules), current=100)
    loop.step(400)
    assert loop.steady(0, seconds=180, every=60) == [95, 90, 85]


def test_kubernetes_example_nine_times_as_many_a_minute() -> None:
    """From KEP-853: 1, 10, 100, 1000."""
    loop = Loop(scaled(WAITING, up={"policies": [policy("Percent", 900, 60)]}, maxReplicas=1000))
    assert loop.steady(1_000_000, seconds=180, every=60) == [10, 100, 1000]


def test_kubernetes_example_one_at_a_time() -> None:
    """From KEP-853: one every ten minutes."""
    loop = Loop(scaled(WAITING, up={"policies": [policy("Replicas", 1, 600)]}))
    sizes = loop.steady(4000, seconds=1800)
    assert sizes == [2] * 40 + [3] * 40 + [4] * 40


def test_percent_is_reckoned_in_whole_numbers() -> None:
    """In floats ten replicas and ten percent are 11.000000000000002."""
    behavior = scaled(
        WAITING, up={"policies": [policy("Percent", 10, 60)]}, down={"policies": [policy("Percent", 7, 60)]}
    ).behavior
    assert most(10, behavior.scale_up, Memory(), 0.0) == 11
    assert least(100, behavior.scale_down, Memory(), 0.0) == 93


def test_a_period_begins_with_the_size_before_what_was_added_and_removed_in_it() -> None:
    rules = scaled(WAITING, up={"policies": [policy("Replicas", 3, 60)]}).behavior.scale_up
    memory = Memory(changes=((10.0, 10, 12), (50.0, 12, 14), (60.0, 14, 13)))
    assert most(13, rules, memory, 69.0) == 13
    assert most(13, rules, memory, 70.0) == 15
    assert most(13, rules, memory, 111.0) == 17
    assert most(13, rules, memory, 121.0) == 16


def test_a_policy_that_was_made_stricter_turns_nothing_back() -> None:
    one = {"policies": [policy("Replicas", 1, 60)]}
    behavior = scaled(WAITING, up=one, down=one).behavior
    assert most(20, behavior.scale_up, Memory(changes=((50.0, 10, 20),)), 60.0) == 20
    assert least(10, behavior.scale_down, Memory(changes=((50.0, 20, 10),)), 60.0) == 10


def test_a_direction_can_be_forbidden() -> None:
    never = {"selectPolicy": "Disabled", **NO_WINDOW}
    up = Loop(scaled(WAITING, up=never), current=2).step(100)
    assert (up.replicas, up.limit) == (2, Reason.RATE_LIMITED)
    assert up.limit_words == "25 replicas are called for; behavior.scaleUp is disabled"
    loop = Loop(scaled(WAITING, down=never), current=7)
    assert set(loop.steady(0, seconds=900)) == {7}


def test_a_policy_says_how_far_it_lets_the_size_move() -> None:
    decision = Loop(scaled(WAITING), current=3).step(100)
    assert (decision.replicas, decision.limit) == (7, Reason.RATE_LIMITED)
    assert decision.limit_words == "25 replicas are called for; behavior.scaleUp allows 7 replicas for now"


@pytest.mark.parametrize("window", [60, 300])
def test_upwards_the_least_within_the_window_counts(window: int) -> None:
    loop = Loop(scaled(WAITING, up={"stabilizationWindowSeconds": window}), current=2)
    loop.step(8)
    sizes = loop.steady(20, seconds=window)
    assert set(sizes[:-1]) == {2}
    assert sizes[-1] == 5


def test_a_single_wild_sample_moves_nothing_through_a_window() -> None:
    loop = Loop(scaled(WAITING, up={"stabilizationWindowSeconds": 60}), current=2)
    loop.steady(8, seconds=60)
    wild = loop.step(10_000)
    assert (wild.replicas, wild.wish, wild.limit) == (2, 2500, Reason.STABILIZING)
    assert set(loop.steady(8, seconds=600)) == {2}


def test_a_single_wild_sample_without_a_window_is_bounded_by_the_policies() -> None:
    loop = Loop(scaled(WAITING), current=2)
    loop.steady(8, seconds=60)
    loop.step(10_000)
    assert max(loop.steady(8, seconds=300)) == 6


def test_downwards_the_most_within_the_window_counts_and_the_words_say_how_long() -> None:
    loop = Loop(scaled(WAITING, down={"stabilizationWindowSeconds": 120}), current=10)
    loop.step(24)
    decision = loop.step(4)
    assert (decision.replicas, decision.limit) == (10, Reason.STABILIZING)
    assert decision.limit_words == "1 replica is called for now, and more within the last 120 s"
    sizes = loop.steady(4, seconds=120)
    assert sizes[-1] == 1


def test_a_rise_within_the_window_begins_it_anew() -> None:
    loop = Loop(scaled(WAITING), current=6)
    loop.steady(0, seconds=270)
    loop.step(24)
    assert set(loop.steady(0, seconds=285)) == {6}
    assert loop.step(0).replicas == 1


def test_between_both_windows_the_size_stays() -> None:
    """HPA's clamp: not below the least that was called for, not above the most."""
    both = {"stabilizationWindowSeconds": 120}
    loop = Loop(scaled(WAITING, up=both, down=both), current=5)
    sizes = [loop.step(value).replicas for value in (40, 4, 36, 8, 60, 4, 48) for _ in range(2)]
    assert set(sizes) == {5}


def test_the_memory_is_exact_and_short() -> None:
    """What is dropped can change no window's least or most."""
    behavior = scaled(WAITING, up={"stabilizationWindowSeconds": 100}).behavior
    memory, whole = Memory(), list[tuple[float, int]]()
    for step in range(700):
        now, wish = float(step), (step * 7919) % 41
        whole.append((now, wish))
        memory = remembered(memory, wish, now, behavior)
        for window in (1, 10, 99, 300):
            kept = [w for t, w in memory.wishes if t > now - window]
            true = [w for t, w in whole if t > now - window]
            assert (min(kept), max(kept)) == (min(true), max(true))
        assert memory.wishes[0][0] > now - 300
        assert len(memory.wishes) <= 2 * 41
    assert max(wish for _, wish in remembered(memory, 10**9, 2000.0, behavior).wishes) == MOST


def test_changes_are_kept_for_the_longest_period() -> None:
    at_once = {"stabilizationWindowSeconds": 0, "policies": [policy("Percent", 100, 60)]}
    autoscaling = scaled(WAITING, up={"policies": [policy("Replicas", 100, 90)]}, down=at_once)
    memory, current = Memory(), 1
    for step in range(300):
        now = 3.0 * step
        decision = decide(autoscaling, seen(current, (step * 7919) % 400), memory, now)
        memory, current = decision.memory, decision.replicas
        assert all(time > now - 90 for time, _, _ in memory.changes)
    assert len(memory.changes) > 10
