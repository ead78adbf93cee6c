"""What holds for every spec, every sample and every past: found by hypothesis, not by example."""

import json
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import REASONS, Reason
from ryzanstein_operator.decide.scale import Bounds, decide
from ryzanstein_operator.decide.sizing import Memory, Sample, Seen
from scale_builders import RATIO_QUERY, SHARED_QUERY, Loop, policy, scaled

FEW = settings(max_examples=25, deadline=None)
SOME = settings(max_examples=60, deadline=None)
METRICS = ("WaitingRequests", "KVCacheUsagePercent", "TimeToFirstTokenMillis", "TokensPerSecond", "Query")
NOW = 5000.0

policies = st.lists(
    st.builds(policy, st.sampled_from(["Percent", "Replicas"]), st.integers(1, 300), st.integers(1, 1800)), max_size=3
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "stabilizationWindowSeconds": st.integers(0, 600),
        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
        "policies": policies,
        "tolerancePercent": st.integers(0, 100),
    },
)


@st.composite
def targets(draw: st.DrawFn) -> dict[str, Any]:
    metric = draw(st.sampled_from(METRICS))
    target: dict[str, Any] = {"metric": metric, "value": draw(st.integers(1, 100))}
    if metric == "Query":
        target |= {"query": "x", "type": draw(st.sampled_from(["Value", "AverageValue", None]))}
    return target


@st.composite
def specs(draw: st.DrawFn) -> Autoscaling:
    low = draw(st.integers(0, 20))
    return scaled(
        *draw(st.lists(targets(), min_size=1, max_size=3)),
        up=draw(rules),
        down=draw(rules),
        minReplicas=low,
        maxReplicas=draw(st.integers(max(low, 1), 60)),
        idleSecondsBeforeZero=draw(st.integers(10, 900)),
    )


legal = st.floats(0, 100) | st.just(0.0)
any_value = legal | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([None, nan, inf, -1.0, 1e13])


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    times = sorted(draw(st.lists(st.floats(NOW - 2000, NOW - 0.1), max_size=6)))
    sizes = st.integers(0, 60)
    wishes = tuple((time, draw(sizes)) for time in times)
    changes = tuple((time, draw(sizes), draw(sizes)) for time in times[::2])
    return Memory(wishes, changes, draw(st.none() | st.tuples(st.floats(NOW - 900, NOW - 0.1), sizes)))


@st.composite
def situations(draw: st.DrawFn, values: st.SearchStrategy[float | None] = any_value) -> tuple[Autoscaling, Seen]:
    autoscaling = draw(specs())
    ready = draw(st.integers(0, 70))
    count = len(autoscaling.targets) if draw(st.integers(0, 9)) else 0
    samples = tuple(Sample(draw(values), draw(st.none() | st.integers(0, 70))) for _ in range(count))
    return autoscaling, Seen(
        current=draw(st.integers(0, 70)),
        ready=ready,
        unplaced=draw(st.sampled_from([0, 0, 3])),
        samples=samples,
        waiting=draw(st.sampled_from([0, 0, 5])),
        idle_seconds=draw(st.none() | st.floats(0, 2000)),
        active=draw(st.sampled_from([None, False, True])),
        ranks=draw(st.sampled_from([0, 1, 4])),
    )


def inside(autoscaling: Autoscaling, what: Seen) -> int:
    return Bounds.of(autoscaling, what.ranks).fit(what.current)[0]


@given(situations(), memories(), st.none() | st.integers(80, 200))
@SOME
def test_bounds_always_hold_and_everything_is_said(
    situation: tuple[Autoscaling, Seen], memory: Memory, budget: int | None
) -> None:
    autoscaling, what = situation
    autoscaling = autoscaling.model_copy(update={"max_accelerators": budget})
    decision = decide(autoscaling, what, memory, NOW)
    assert autoscaling.min_replicas <= decision.replicas <= autoscaling.max_replicas
    assert budget is None or decision.replicas * what.ranks <= budget
    assert decision == decide(autoscaling, what, memory, NOW)
    assert decision.active in REASONS[ConditionType.SCALING_ACTIVE]
    assert decision.active_words
    assert (decision.limit is None) == (decision.limit_words == "")
    assert decision.limit is None or decision.limit in REASONS[ConditionType.SCALING_LIMITED]
    assert max(len(decision.metric), 2 * len(decision.value), 2 * len(decision.target)) <= 64
    json.dumps([decision.wish, decision.memory.wishes], allow_nan=False)


@given(situations(), memories(), st.integers(0, 2), st.sampled_from([None, nan, inf, -inf, -0.5, 1e13]))
@FEW
def test_what_is_missing_lowers_nothing(
    situation: tuple[Autoscaling, Seen], memory: Memory, which: int, value: float | None
) -> None:
    autoscaling, what = situation
    assume(which < len(what.samples))
    samples = tuple(Sample(value) if i == which else sample for i, sample in enumerate(what.samples))
    decision = decide(autoscaling, replace(what, samples=samples), memory, NOW)
    assert decision.replicas >= inside(autoscaling, what)
    if what.current:
        assert decision.active is Reason.METRICS_UNAVAILABLE


@given(situations(legal), memories(), st.integers(0, 2), st.floats(0, 100))
@SOME
def test_more_load_never_leads_to_fewer(
    situation: tuple[Autoscaling, Seen], memory: Memory, which: int, more: float
) -> None:
    autoscaling, what = situation
    assume(which < len(what.samples))
    sample = what.samples[which]
    assert sample.value is not None
    value = max(sample.value, more)
    raised = tuple(replace(sample, value=value) if i == which else other for i, other in enumerate(what.samples))
    less, greater = (decide(autoscaling, replace(what, samples=s), memory, NOW) for s in (what.samples, raised))
    assert greater.replicas >= less.replicas
    assert greater.wish >= less.wish


@given(situations(legal), memories())
@FEW
def test_what_has_no_node_is_never_asked_for_twice(situation: tuple[Autoscaling, Seen], memory: Memory) -> None:
    autoscaling, what = situation
    assume(inside(autoscaling, what) > 0)
    decision = decide(autoscaling, replace(what, unplaced=1), memory, NOW)
    assert decision.replicas <= inside(autoscaling, what)


@given(situations())
@FEW
def test_an_operator_that_has_just_started_lowers_nothing(situation: tuple[Autoscaling, Seen]) -> None:
    autoscaling, what = situation
    assert decide(autoscaling, what, Memory(), NOW).replicas >= inside(autoscaling, what)


@given(
    load=st.floats(0.01, 50),
    tolerance=st.integers(0, 90),
    start=st.integers(1, 60),
    shared=st.booleans(),
    window=st.sampled_from([0, 60]),
)
@SOME
def test_a_constant_load_comes_to_rest_in_one_direction(
    load: float, tolerance: int, start: int, shared: bool, window: int
) -> None:
    """load: in replicas' worth. A total stays the total; a ratio is the total over the replicas there are."""
    readily = {"tolerancePercent": tolerance, "stabilizationWindowSeconds": window}
    loop = Loop(scaled(SHARED_QUERY if shared else RATIO_QUERY, up=readily, down=readily), current=start)
    sizes = [start]
    for _ in range(20):
        sizes.append(loop.step(load * 10 / (1 if shared else loop.current)).replicas)
    steps = {after - before for before, after in pairwise(sizes)} - {0}
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    assert len(set(sizes[-8:])) == 1
    assert sizes[-1] >= load / (1 + tolerance / 100) - 1e-6


@given(
    values=st.lists(any_value, min_size=10, max_size=30),
    period=st.integers(15, 120),
    every=st.sampled_from([1.0, 5.0, 15.0]),
)
@FEW
def test_within_a_period_the_size_moves_no_further_than_its_policy_allows(
    values: list[float | None], period: int, every: float
) -> None:
    """Whatever the samples do, NaN and nonsense among them."""
    one = {"stabilizationWindowSeconds": 0, "policies": [policy("Replicas", 1, period)]}
    loop = Loop(scaled({"metric": "Query", "value": 2, "query": "x"}, up=one, down=one), current=5)
    sizes = [(-inf, 5)]
    for value in values:
        before, now = loop.current, loop.now
        after = loop.step(value, seconds=every).replicas
        at_start = [size for time, size in sizes if time <= now - period][-1]
        assert after == before or abs(after - at_start) <= 1
        sizes.append((now, after))


@given(
    walk=st.lists(st.tuples(any_value, any_value, st.integers(0, 3)), min_size=10, max_size=60),
    autoscaling=specs(),
)
@FEW
def test_a_walk_through_anything_stays_within_bounds_and_memory(
    walk: list[tuple[float | None, float | None, int]], autoscaling: Autoscaling
) -> None:
    one = autoscaling.targets[0]
    autoscaling = autoscaling.model_copy(update={"targets": [one, one]})
    loop = Loop(autoscaling, current=autoscaling.min_replicas)
    for first, second, ready in walk:
        before = loop.current
        loop.step(first, second, ready=min(ready, before), idle_seconds=50.0, active=False)
        assert autoscaling.min_replicas <= loop.current <= autoscaling.max_replicas
        usable = [value for value in (first, second) if value is not None and 0 <= value <= 100]
        assert loop.current >= before or len(usable) == 2 or one.metric != "KVCacheUsagePercent"
        assert len(loop.memory.wishes) <= 2 * 60 + 2
