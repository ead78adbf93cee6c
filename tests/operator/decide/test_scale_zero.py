"""To zero only when two witnesses say that nobody asks; from zero at once, whatever stands in the way."""

from dataclasses import replace
from typing import Any

import pytest

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Memory, Seen
from scale_builders import (
    BLOCKS,
    LATENCY,
    RATIO_QUERY,
    SHARED_QUERY,
    TOKENS,
    WAITING,
    Loop,
    first,
    policy,
    scaled,
    seen,
)

IDLE: dict[str, Any] = {"idle_seconds": 601.0, "active": False}
ASLEEP = scaled(WAITING, minReplicas=0)


def idle(*values: float | None, **more: Any) -> Seen:
    return seen(1, *values, **{**IDLE, **more})


def test_the_last_replica_goes_when_gateways_and_prometheus_agree_that_nobody_asks() -> None:
    decision = first(ASLEEP, idle(0))
    assert (decision.replicas, decision.wish, decision.active, decision.limit) == (0, 0, Reason.AT_ZERO, None)
    assert decision.active_words == "no request has been under way for 600 s: no replica is needed"


def test_the_window_of_scale_down_does_not_hold_it_any_longer() -> None:
    autoscaling = scaled(WAITING, minReplicas=0, down={"stabilizationWindowSeconds": 3600})
    assert decide(autoscaling, idle(0), Memory(wishes=((9990.0, 5),)), 10_000.0).replicas == 0


AWAKE = {
    "not idle for long enough": (idle(0, idle_seconds=599.0), "until no request has been under way for 600 s"),
    "a gateway has not spoken": (idle(0, idle_seconds=None), "not every gateway has said lately"),
    "prometheus remembers requests": (idle(0, active=True), "until no request has been under way for 600 s"),
    "prometheus does not say": (idle(0, active=None), "Prometheus does not say"),
    "a request waits at a gateway": (idle(0, waiting=1), "requests wait at the gateways"),
}


@pytest.mark.parametrize(("what", "words"), AWAKE.values(), ids=AWAKE)
def test_with_any_doubt_one_replica_stays_and_it_is_said_why(what: Seen, words: str) -> None:
    decision = first(ASLEEP, what)
    assert (decision.replicas, decision.limit) == (1, Reason.STABILIZING)
    assert decision.limit_words.startswith("1 replica is kept")
    assert words in decision.limit_words


@pytest.mark.parametrize("value", [None, float("nan"), -1.0])
def test_without_metrics_nothing_goes_to_zero(value: float | None) -> None:
    decision = first(ASLEEP, idle(value))
    assert (decision.replicas, decision.active) == (1, Reason.METRICS_UNAVAILABLE)
    assert first(scaled(WAITING, TOKENS, minReplicas=0), idle(0, value)).replicas == 1
    assert first(ASLEEP, idle()).replicas == 1
    assert first(scaled(LATENCY, WAITING, minReplicas=0), idle(5000, value)).replicas > 1


def test_a_query_may_speak_for_a_replica_without_requests() -> None:
    for query in (SHARED_QUERY, RATIO_QUERY):
        decision = first(scaled(WAITING, query, minReplicas=0), idle(0, 1))
        assert decision.replicas == 1
        assert "Query is 1 " in decision.active_words
        assert first(scaled(WAITING, query, minReplicas=0), idle(0, 0)).replicas == 0


def test_blocks_that_nobody_uses_any_more_keep_no_replica() -> None:
    assert first(scaled(BLOCKS, minReplicas=0), idle(2)).replicas == 0


def test_from_several_it_goes_to_one_first() -> None:
    loop = Loop(ASLEEP, current=3)
    sizes = loop.steady(0, seconds=330, **IDLE)
    assert sizes[-3:] == [3, 1, 0]


def test_nothing_goes_to_zero_with_the_first_look_of_an_operator() -> None:
    loop = Loop(ASLEEP)
    assert loop.steady(0, seconds=30, **IDLE) == [1, 0]


def test_a_minimum_of_one_never_sleeps() -> None:
    assert first(scaled(WAITING), idle(0)).replicas == 1


def test_who_forbids_to_go_down_keeps_the_last_one() -> None:
    decision = first(scaled(WAITING, minReplicas=0, down={"selectPolicy": "Disabled"}), idle(0))
    assert (decision.replicas, decision.limit) == (1, Reason.RATE_LIMITED)


STOPPED: dict[str, Any] = {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 3600}


@pytest.mark.parametrize("values", [(), (0,), (None,), (float("nan"),)], ids=["unread", "none", "missing", "NaN"])
def test_the_first_request_brings_one_replica_at_once_whatever_else_is_said(values: tuple[float | None, ...]) -> None:
    autoscaling = scaled(WAITING, minReplicas=0, maxAccelerators=8, up=STOPPED)
    asleep = seen(0, *values, waiting=1, ranks=8, unplaced=1)
    for memory in (Memory(), Memory(wishes=((99.0, 0),), changes=((99.0, 1, 0),))):
        decision = decide(autoscaling, asleep, memory, 100.0)
        assert (decision.replicas, decision.limit) == (1, None)
        assert decision.active_words == "1 request waits at the gateways and there is no replica: 1 replica"


def test_a_crowd_brings_one_replica_first_and_more_when_the_targets_say_so() -> None:
    loop = Loop(ASLEEP, current=0)
    assert loop.step(40, waiting=40).replicas == 1
    assert loop.step(40, waiting=40, seconds=1.0).replicas == 5


@pytest.mark.parametrize("values", [(), (0,), (None,), (50,)], ids=["unread", "none", "missing", "many"])
def test_at_zero_it_stays_until_a_request_waits(values: tuple[float | None, ...]) -> None:
    decision = first(ASLEEP, seen(0, *values, active=True, idle_seconds=1.0))
    assert (decision.replicas, decision.active, decision.active_words) == (
        0,
        Reason.AT_ZERO,
        "no request waits: no replica is needed",
    )


def test_the_one_that_was_woken_stays_while_it_starts() -> None:
    loop = Loop(ASLEEP, current=0)
    loop.step(0, waiting=1)
    sizes = loop.steady(1, seconds=120, ready=0, waiting=1, idle_seconds=0.0, active=True)
    assert set(sizes) == {1}


def test_one_that_can_get_no_node_goes_when_nobody_asks_any_more() -> None:
    stuck = replace(idle(0, ready=0), unplaced=1)
    assert first(ASLEEP, stuck).replicas == 0


def test_the_policies_of_scale_down_hold_for_the_last_one_too() -> None:
    rules = {"stabilizationWindowSeconds": 0, "policies": [policy("Replicas", 1, 60)]}
    loop = Loop(scaled(WAITING, minReplicas=0, down=rules), current=2)
    assert loop.steady(0, seconds=120, **IDLE) == [2, 1, 1, 1, 1, 0, 0, 0]
