"""From an answer of Prometheus to a sample: what is missing is told from what is nothing."""

import math
from typing import Any

import pytest

from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_operator.decide.samples import active_of, sample_of
from ryzanstein_operator.decide.sizing import Sample

WAITING, LATENCY, QUERY = (
    Target.model_validate({"metric": metric, "value": 5, **more})
    for metric, more in (("WaitingRequests", {}), ("TimeToFirstTokenMillis", {}), ("Query", {"query": "x"}))
)


def parts(**numbers: float) -> list[Any]:
    return [({"part": name}, value) for name, value in numbers.items()]


def test_the_value_comes_with_how_many_replicas_it_is_of() -> None:
    assert sample_of(WAITING, parts(value=12, replicas=2, gateways=1), expected=True) == Sample(12, 2)


def test_latency_without_requests_is_none_at_all() -> None:
    """The quantile of nothing has no series."""
    assert sample_of(LATENCY, parts(replicas=2), expected=True) == Sample(0.0, 2)


@pytest.mark.parametrize("target", [WAITING, LATENCY])
def test_ready_replicas_that_nobody_scrapes_are_a_trouble(target: Target) -> None:
    found = sample_of(target, parts(value=0, gateways=1), expected=True)
    assert found.value is None
    assert "of any of the replicas that are ready" in found.trouble


def test_replicas_that_have_only_just_come_are_none() -> None:
    assert sample_of(LATENCY, [], expected=False) == Sample(0.0, 0)
    assert sample_of(WAITING, parts(value=3, gateways=2), expected=False) == Sample(3, 0)


@pytest.mark.parametrize("expected", [True, False])
def test_gateways_that_nobody_scrapes_are_a_trouble(expected: bool) -> None:
    for answer in (parts(value=1, replicas=1), parts(value=1, replicas=1, gateways=0)):
        found = sample_of(WAITING, answer, expected=expected)
        assert found.value is None
        assert "of any gateway" in found.trouble


def test_a_query_gives_one_series() -> None:
    assert sample_of(QUERY, [({"any": "label"}, 7.0)], expected=True) == Sample(7.0)
    assert "gives nothing" in sample_of(QUERY, [], expected=True).trouble
    assert "gives 2 series" in sample_of(QUERY, [({}, 1.0), ({"a": "b"}, 2.0)], expected=True).trouble


def test_activity_needs_gateways_to_be_denied() -> None:
    assert active_of(parts(value=0, gateways=1)) is False
    assert active_of(parts(value=0.2, gateways=1)) is True
    assert active_of(parts(value=0)) is None
    assert active_of(parts(value=math.nan, gateways=1)) is None
    assert active_of([]) is None


@pytest.mark.parametrize("count", [math.nan, math.inf, -math.inf, -1.0])
def test_replicas_and_gateways_that_are_no_count_are_a_trouble(count: float) -> None:
    for part in ("replicas", "gateways"):
        answer = parts(**{"value": 0, "replicas": 1, "gateways": 1, part: count})
        found = sample_of(WAITING, answer, expected=True)
        assert found.value is None
        assert "is no number" in found.trouble
    assert active_of(parts(value=0, gateways=count)) is None


def test_what_is_said_twice_is_not_believed() -> None:
    for part in ("value", "replicas", "gateways"):
        answer = [*parts(value=0, replicas=1, gateways=1), ({"part": part}, 7.0)]
        assert sample_of(WAITING, answer, expected=True).value is None
        assert active_of(answer) is None


@pytest.mark.parametrize("value", [-1.0, -math.inf])
def test_activity_below_nothing_is_not_known(value: float) -> None:
    assert active_of(parts(value=value, gateways=1)) is None
