"""The circuit breaker: every edge of its state machine, in times of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzanstein_gateway.breaker import Breaker, BreakerPolicy, Phase

POLICY = BreakerPolicy(open_for=5.0, open_for_most=15.0)


def after(*events: str, now: float = 0.0, breaker: Breaker | None = None) -> Breaker:
    """The state after events at one time: f(ailed), F(ailed for certain), s(ucceeded), b(egan)."""
    state = breaker or Breaker()
    for event in "".join(events):
        match event:
            case "f":
                state = state.failed(now, POLICY)
            case "F":
                state = state.failed(now, POLICY, certain=True)
            case "s":
                state = state.succeeded(now, POLICY)
            case "b":
                state = state.began(now, POLICY)
    return state


@pytest.mark.parametrize(
    ("events", "phase"),
    [
        ("", Phase.CLOSED),
        ("ff", Phase.CLOSED),
        ("fff", Phase.OPEN),
        ("ffsff", Phase.CLOSED),
        ("F", Phase.OPEN),
        ("sfsfsfsff", Phase.CLOSED),  # nine are too few to take a share of
        ("fsfsfsfsfs" + "f", Phase.OPEN),
        ("fsfsfsssss" + "f", Phase.CLOSED),
    ],
)
def test_it_opens_by_failures_in_a_row_or_by_their_share(events: str, phase: Phase) -> None:
    assert after(events).phase(0.0, POLICY) is phase


def test_a_window_forgets() -> None:
    early = after("fsfsfsfsf")
    assert after("sf", now=POLICY.window, breaker=early).phase(POLICY.window, POLICY) is Phase.CLOSED
    assert after("sf", now=POLICY.window - 1, breaker=early).phase(POLICY.window - 1, POLICY) is Phase.OPEN


def test_half_open_tries_one_at_a_time_and_closes_after_enough_successes() -> None:
    state = after("F")
    assert not state.admits(4.9, POLICY)
    assert state.phase(5.0, POLICY) is Phase.HALF_OPEN
    assert state.admits(5.0, POLICY)
    state = after("b", now=5.0, breaker=state)
    assert not state.admits(5.1, POLICY), "a second request went with the trial"
    state = after("s", now=5.2, breaker=state)
    assert state.phase(5.2, POLICY) is Phase.HALF_OPEN
    assert state.admits(5.2, POLICY)
    state = after("bs", now=5.3, breaker=state)
    assert state.phase(5.3, POLICY) is Phase.CLOSED
    assert after("ff", now=5.4, breaker=state).phase(5.4, POLICY) is Phase.CLOSED, "it remembered what was before"


def test_a_trial_that_says_nothing_does_not_keep_it_shut_for_ever() -> None:
    state = after("b", now=5.0, breaker=after("F"))
    assert not state.admits(9.9, POLICY)
    assert state.admits(10.0, POLICY)


def test_each_failed_trial_doubles_the_wait_up_to_a_bound() -> None:
    state, now, waits = after("F"), 0.0, []
    for _ in range(4):
        opened, step = now, 0.5
        while state.phase(now, POLICY) is Phase.OPEN:
            now += step
        waits.append(now - opened)
        state = after("bf", now=now, breaker=state)
    assert waits == [5.0, 10.0, 15.0, 15.0]


def test_what_was_sent_before_it_opened_changes_nothing() -> None:
    state = after("F")
    assert after("sf", now=1.0, breaker=state) == state


@given(st.lists(st.tuples(st.sampled_from("fFsb"), st.floats(0.0, 8.0)), max_size=60))
def test_it_never_stays_shut_and_opens_by_failures_alone(events: list[tuple[str, float]]) -> None:
    state, now = Breaker(), 0.0
    for event, passed in events:
        now += passed
        before = state.phase(now, POLICY)
        state = after(event, now=now, breaker=state)
        if state.phase(now, POLICY) is Phase.OPEN and before is not Phase.OPEN:
            assert event in "fF"
        if state.phase(now, POLICY) is Phase.CLOSED:
            assert state.admits(now, POLICY)
    assert state.admits(now + POLICY.open_for_most + 0.001, POLICY)  # sums of floats are not exact
