"""Which size the targets lead to: HPA's algorithm, bounds, what is missing, what has no node, and the words."""

from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import pytest

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Memory, Sample, Seen
from scale_builders import (
    BLOCKS,
    LATENCY,
    RATIO_QUERY,
    SHARED_QUERY,
    TOKENS,
    TROUBLE,
    WAITING,
    Loop,
    first,
    policy,
    scaled,
    seen,
)

FREELY = {"stabilizationWindowSeconds": 0, "policies": [policy("Percent", 1000, 15), policy("Replicas", 1000, 15)]}


@dataclass(frozen=True)
class Case:
    """Targets, the values that they have, and what they call for."""

    targets: tuple[dict[str, Any], ...]
    seen: Seen
    replicas: int
    up: dict[str, Any] = field(default_factory=dict)
    down: dict[str, Any] = field(default_factory=dict)

    @property
    def autoscaling(self) -> Autoscaling:
        return scaled(*self.targets, up={**FREELY, **self.up}, down={**FREELY, **self.down})


CALLED = {
    # Kubernetes' own: ceil(replicas * value / target); 200m for 100m doubles, 50m halves.
    "twice the target doubles": Case((RATIO_QUERY,), seen(3, 20), 6),
    "half the target halves": Case((RATIO_QUERY,), seen(4, 5), 2),
    "a fraction is rounded up": Case((RATIO_QUERY,), seen(2, 12), 3),
    "within a tenth nothing changes": Case((RATIO_QUERY,), seen(10, 11), 10),
    "nor a tenth below": Case((RATIO_QUERY,), seen(10, 9), 10),
    "just beyond the tolerance": Case((RATIO_QUERY,), seen(10, 11.1), 12),
    "its own tolerance upwards": Case((RATIO_QUERY,), seen(10, 14), 10, up={"tolerancePercent": 50}),
    "its own tolerance downwards": Case((RATIO_QUERY,), seen(10, 6), 10, down={"tolerancePercent": 50}),
    "no tolerance": Case((RATIO_QUERY,), seen(100, 10.1), 100, up={"tolerancePercent": 0}),
    "a total is divided": Case((WAITING,), seen(2, 12), 3),
    "a total is compared by what is ready": Case((WAITING,), seen(2, 8.8), 2),
    "a total just beyond": Case((WAITING,), seen(2, 8.9), 3),
    "a total that is little": Case((TOKENS,), seen(9, 250), 3),
    "nothing at all": Case((WAITING,), seen(5, 0), 1),
    "floats are not rounded up by their dust": Case((RATIO_QUERY,), seen(3, 10.000000001), 3, {"tolerancePercent": 0}),
    "nor by what is left of a division": Case((RATIO_QUERY,), seen(2, 15.000000001), 3),
    "a percentage": Case((BLOCKS,), seen(4, 95), 6),
    "a percentage that is rounded above a hundred": Case((BLOCKS,), seen(7, 100.5), 11),
    "a latency": Case((LATENCY,), seen(2, 1250), 5),
    "no request has a latency of nothing": Case((LATENCY,), seen(5, 0), 1),
    "no latency does not outvote the rest": Case((LATENCY, WAITING), seen(5, 0, 19), 5),
    "the largest decides": Case((WAITING, BLOCKS, TOKENS), seen(4, 0, 30, 900), 9),
    # What is starting was asked for already.
    "a total is not asked for twice": Case((WAITING,), seen(6, 20, ready=2), 6),
    "a ratio is not compounded": Case((BLOCKS,), seen(4, 98, ready=2), 4),
    "a ratio of the ready ones calls for more": Case((RATIO_QUERY,), seen(4, 50, ready=2), 10),
    "ready ones below the target let go": Case((BLOCKS,), seen(4, 20, ready=2), 1),
    "ready ones at the target hold": Case((BLOCKS,), seen(4, 70, ready=2), 4),
    "none ready, a ratio says nothing": Case((BLOCKS,), seen(4, 0, ready=0), 4),
    "none ready, no tokens say nothing": Case((TOKENS,), seen(4, 0, ready=0), 4),
    "none ready, those who wait do": Case((WAITING,), seen(4, 30, ready=0), 8),
    "none ready, and nobody waits": Case((WAITING,), seen(4, 0, ready=0), 1),
    "more are ready than there should be": Case((RATIO_QUERY,), seen(2, 20, ready=4), 4),
    # Some replicas do not report: towards fewer they are at the target, towards more they have nothing to do.
    "a silent one is not taken for idle": Case((RATIO_QUERY,), seen(4, 5, silent=2), 3),
    "a silent one is not taken for busy": Case((RATIO_QUERY,), seen(4, 30, silent=2), 6),
    "silent ones turn no direction": Case((RATIO_QUERY,), seen(4, 15, silent=2), 4),
    "silent ones of a total": Case((TOKENS,), seen(4, 100, silent=2), 3),
    "a total of the others alone": Case((TOKENS,), seen(4, 300, silent=2), 4),
    "all are silent": Case((TOKENS,), seen(4, 0, silent=4), 4),
    "all are silent and some wait": Case((WAITING,), seen(4, 15, silent=4), 4),
    "all are silent and many wait": Case((WAITING,), seen(4, 30, silent=4), 8),
}


@pytest.mark.parametrize("case", CALLED.values(), ids=CALLED)
def test_a_target_calls_for_what_hpa_would(case: Case) -> None:
    decision = first(case.autoscaling, case.seen)
    assert decision.replicas == case.replicas
    assert decision.active is Reason.METRICS_READ


UNUSABLE = {"missing": None, "NaN": nan, "infinite": inf, "minus infinite": -inf, "negative": -1.0, "absurd": 1e13}


@pytest.mark.parametrize("value", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("current", [1, 3, 100])
def test_without_a_usable_value_the_size_is_held_exactly(value: float | None, current: int) -> None:
    decision = first(scaled(WAITING, down=FREELY), seen(current, value))
    assert (decision.replicas, decision.wish, decision.active) == (current, current, Reason.METRICS_UNAVAILABLE)
    assert decision.active_words.startswith("WaitingRequests: ")
    assert decision.metric == ""


def test_more_than_all_blocks_is_absurd() -> None:
    decision = first(scaled(BLOCKS), seen(3, 250))
    assert decision.replicas == 3
    assert decision.active_words == "KVCacheUsagePercent: the value is above 100 percent: 3 replicas as before"


def test_what_prometheus_said_of_its_trouble_is_passed_on() -> None:
    assert TROUBLE in first(scaled(WAITING), seen(3, None)).active_words


@pytest.mark.parametrize("value", UNUSABLE.values(), ids=UNUSABLE)
def test_beside_a_missing_one_another_may_raise_but_not_lower(value: float | None) -> None:
    autoscaling = scaled(WAITING, BLOCKS, down=FREELY)
    raised, held = first(autoscaling, seen(3, 20, value)), first(autoscaling, seen(3, 0, value))
    assert (raised.replicas, held.replicas) == (5, 3)
    assert raised.active is held.active is Reason.METRICS_UNAVAILABLE
    assert raised.metric == "WaitingRequests"


def test_after_an_outage_the_size_is_looked_at_for_a_whole_window_before_it_goes_down() -> None:
    loop = Loop(scaled(WAITING), current=4)
    loop.steady(None, seconds=900)
    assert set(loop.steady(0, seconds=285)) == {4}
    assert loop.step(0).replicas == 1


def test_an_outage_delays_no_rise_although_there_is_a_window() -> None:
    loop = Loop(scaled(WAITING, up={"stabilizationWindowSeconds": 60}), current=2)
    loop.steady(20, seconds=120)
    loop = Loop(loop.autoscaling, current=2, now=loop.now, memory=Memory(wishes=((loop.now - 90, 5),)))
    assert loop.step(None).replicas == 2
    assert loop.step(20).replicas == 5


def test_as_long_as_nobody_has_asked_the_size_stays() -> None:
    decision = first(scaled(WAITING), seen(4))
    assert (decision.replicas, decision.active) == (4, Reason.PENDING)


BOUNDS: dict[str, tuple[dict[str, Any], Seen, int, Reason, str]] = {
    "the maximum": (
        {"maxReplicas": 4},
        seen(3, 40),
        4,
        Reason.AT_MAXIMUM,
        "10 replicas are called for; maxReplicas is 4",
    ),
    "the minimum": (
        {"minReplicas": 2},
        seen(3, 0),
        2,
        Reason.AT_MINIMUM,
        "0 replicas are called for; minReplicas is 2",
    ),
    "the budget": (
        {"maxAccelerators": 19},
        seen(3, 40, ranks=4),
        4,
        Reason.ACCELERATOR_BUDGET,
        "10 replicas are called for; maxAccelerators is 19, room for 4 of 4 each",
    ),
    "a maximum within the budget": (
        {"maxReplicas": 4, "maxAccelerators": 64},
        seen(3, 40, ranks=4),
        4,
        Reason.AT_MAXIMUM,
        "10 replicas are called for; maxReplicas is 4",
    ),
    "a maximum that was lowered, without metrics": (
        {"maxReplicas": 4},
        seen(9, None),
        4,
        Reason.AT_MAXIMUM,
        "9 replicas are there; maxReplicas is 4",
    ),
    "a minimum that was raised, without metrics": (
        {"minReplicas": 3},
        seen(1, None),
        3,
        Reason.AT_MINIMUM,
        "1 replica is there; minReplicas is 3",
    ),
    "a minimum that was raised from zero": (
        {"minReplicas": 2},
        seen(0),
        2,
        Reason.AT_MINIMUM,
        "0 replicas are there; minReplicas is 2",
    ),
    "a minimum that was raised where there is no node": (
        {"minReplicas": 3},
        seen(2, 0, unplaced=1),
        3,
        Reason.AT_MINIMUM,
        "0 replicas are called for; minReplicas is 3",
    ),
}


@pytest.mark.parametrize(("spec", "what", "replicas", "reason", "words"), BOUNDS.values(), ids=BOUNDS)
def test_bounds_hold_and_say_so(spec: dict[str, Any], what: Seen, replicas: int, reason: Reason, words: str) -> None:
    decision = first(scaled(WAITING, up=FREELY, down=FREELY, **spec), what)
    assert (decision.replicas, decision.limit, decision.limit_words) == (replicas, reason, words)


def test_a_size_out_of_bounds_moves_at_once_whatever_the_policies_say() -> None:
    slowly = {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 3600}
    assert first(scaled(WAITING, maxReplicas=4, up=slowly, down=slowly), seen(50, 100)).replicas == 4
    assert first(scaled(WAITING, minReplicas=40, up=slowly, down=slowly), seen(5, 0)).replicas == 40


def test_what_has_no_node_is_not_asked_for_twice() -> None:
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    decision = first(scaled(WAITING), seen(5, 40, ready=3, unplaced=2, unplaced_words=words))
    assert (decision.replicas, decision.wish, decision.limit) == (5, 10, Reason.CAPACITY_UNAVAILABLE)
    assert decision.limit_words.endswith(f"2 of the 5 asked for before have no node: {words}")


def test_with_replicas_that_have_no_node_the_size_still_goes_down() -> None:
    loop = Loop(scaled(WAITING), current=5)
    assert loop.steady(0, seconds=330, ready=3, unplaced=2)[-1] == 1


def test_a_decision_says_what_decided_and_why() -> None:
    decision = first(scaled(BLOCKS, WAITING), seen(2, 20, 12))
    assert decision.active_words == "WaitingRequests is 12 for 2 replicas, to be kept at 4 each: 3 replicas"
    assert (decision.metric, decision.value, decision.target) == ("WaitingRequests", "12", "4")
    assert (decision.replicas, decision.wish, decision.limit, decision.limit_words) == (3, 3, None, "")


def test_words_do_not_change_with_every_sample() -> None:
    said = {first(scaled(TOKENS), seen(9, value)).active_words for value in (876.01, 875.6, 876.4)}
    assert said == {"TokensPerSecond is 876 for 9 replicas, to be kept at 100 each: 9 replicas"}


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (1e-300, "0"), (0.0123456, "0.0123"), (1234567.0, "1230000"), (1e12, "1" + "0" * 12)],
)
def test_a_value_is_a_decimal_of_three_digits(value: float, said: str) -> None:
    decision = first(scaled(SHARED_QUERY), seen(3, value))
    assert decision.value == said
    assert len(decision.value) <= 32


def test_two_targets_of_one_metric_are_told_apart() -> None:
    decision = first(scaled(SHARED_QUERY, WAITING, RATIO_QUERY), seen(2, 0, 0, 30))
    assert decision.metric == "Query (target 3)"
    assert "Query (target 3) is 30 on 2 replicas, to be kept at 10: 6 replicas" in decision.active_words


def test_starting_and_silent_replicas_are_in_the_words() -> None:
    what = Seen(current=5, ready=4, samples=(Sample(90.0, 3),))
    words = first(scaled(BLOCKS), what).active_words
    assert words.startswith("KVCacheUsagePercent is 90 on 4 ready of 5 replicas (1 of them without metrics), to be")


def test_an_operator_that_has_just_started_lowers_nothing_at_once_even_without_a_window() -> None:
    autoscaling = scaled(WAITING, down=FREELY)
    decision = decide(autoscaling, seen(7, 0), Memory(), 5.0)
    assert (decision.replicas, decision.limit) == (7, Reason.STABILIZING)
    assert decide(autoscaling, seen(7, 0), decision.memory, 6.0).replicas == 1


def test_an_operator_that_has_just_started_raises_at_once() -> None:
    assert decide(scaled(WAITING), seen(2, 12), Memory(), 5.0).replicas == 3
