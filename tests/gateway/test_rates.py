"""The arithmetic of rate limits: what passes in a minute, what is told to those who must wait."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ryzanstein_gateway.rates import MINUTE, Rate, charge, take


def passed(rate: Rate, times: list[float], tat: float = 0.0) -> list[float]:
    """Those of `times` at which one unit is let through."""
    through = []
    for now in times:
        verdict = take(rate, tat, now)
        tat = verdict.tat
        if verdict.allowed:
            through.append(now)
    return through


def test_a_fresh_bucket_lets_a_minutes_worth_through_and_then_one_each_interval() -> None:
    assert len(passed(Rate(60), [100.0] * 100)) == 60
    assert passed(Rate(6), [0.0] * 6 + [9.9, 10.0, 10.1, 20.0]) == [0.0] * 6 + [10.0, 20.0]


@settings(deadline=None)  # a machine that stands still is no fault of the arithmetic
@given(
    st.integers(1, 600),
    st.lists(st.floats(0, 5), min_size=1, max_size=300),
)
def test_in_no_minute_more_than_twice_the_number_passes_and_in_the_long_run_the_number(
    per_minute: int, gaps: list[float]
) -> None:
    times = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    through = passed(Rate(per_minute), times)
    for begin in through:
        assert sum(begin <= time < begin + MINUTE for time in through) <= 2 * per_minute
    assert len(through) <= per_minute * (1 + times[-1] / MINUTE) + 1


@settings(deadline=None)
@given(st.integers(1, 1000), st.floats(0, 1e6), st.floats(0, 200), st.floats(0.1, 100))
def test_who_comes_again_when_told_is_let_in_and_sooner_is_not(
    per_minute: int, now: float, ahead: float, cost: float
) -> None:
    rate = Rate(per_minute)
    verdict = take(rate, now + ahead, now, cost)
    if verdict.allowed:
        assert verdict.retry_after == 0
        return
    assert take(rate, verdict.tat, now + verdict.retry_after + 1e-6, cost).allowed
    if verdict.retry_after > 1e-3:
        assert not take(rate, verdict.tat, now + verdict.retry_after - 1e-3, cost).allowed


def test_what_remains_is_told() -> None:
    rate = Rate(3)
    tat, remaining = 0.0, []
    for _ in range(4):
        verdict = take(rate, tat, 50.0)
        tat = verdict.tat
        remaining.append(verdict.remaining)
    assert remaining == [2, 1, 0, 0]
    assert take(rate, tat, 50.0 + 10 * MINUTE).remaining == 2


def test_a_request_larger_than_the_bucket_passes_when_it_is_empty_and_is_paid_for_after() -> None:
    rate = Rate(100)
    first = take(rate, 0.0, 0.0, cost=1000)
    assert first.allowed
    owed = charge(rate, first.tat, 10.0, 900)
    verdict = take(rate, owed, 10.0)
    assert not verdict.allowed
    assert 530 < verdict.retry_after < 531  # at 100 a minute 1000 tokens take 600 s, of which a bucket holds 60


def test_what_was_charged_too_much_is_given_back() -> None:
    rate = Rate(100)
    verdict = take(rate, 0.0, 0.0, cost=100)
    assert take(rate, charge(rate, verdict.tat, 0.0, -50), 0.0, cost=50).allowed
