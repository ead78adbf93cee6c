"""The rules about a request that has lost its replica: how often it may move, what the next replica is told."""

import json
from typing import Any

import pytest

from ryzanstein_gateway.journal import Journal
from ryzanstein_gateway.migrate import MAX_MIGRATIONS, Ending, Losses, Step, num_choices, resume_body
from ryzanstein_gateway.retry_budget import WINDOW_SECONDS, RetryBudget
from ryzanstein_gateway.strikes import (
    MAX_FINGERPRINTS,
    MEMORY_SECONDS,
    SAME_CRASH_SECONDS,
    Strikes,
    fingerprint,
)

CRASH, HANG, DRAIN = Ending.CRASH, Ending.HANG, Ending.DRAIN


@pytest.mark.parametrize(
    ("losses", "step", "strikes"),
    [
        ([(CRASH, 0)], Step.MIGRATE, 1),
        ([(CRASH, 500)], Step.MIGRATE, 1),  # the first one always counts
        ([(DRAIN, 0)], Step.MIGRATE, 0),
        ([(CRASH, 0), (CRASH, 0)], Step.QUARANTINE, 2),
        ([(CRASH, 90), (HANG, 7)], Step.QUARANTINE, 2),
        ([(HANG, 0), (CRASH, 8)], Step.MIGRATE, 1),
        ([(CRASH, 0), (DRAIN, 0), (DRAIN, 0)], Step.MIGRATE, 1),
        ([(CRASH, 0), (DRAIN, 0), (CRASH, 0)], Step.QUARANTINE, 2),
        ([(CRASH, 9)] * MAX_MIGRATIONS, Step.MIGRATE, 1),
        ([(CRASH, 9)] * (MAX_MIGRATIONS + 1), Step.GIVE_UP, 1),
        ([(DRAIN, 0)] * (MAX_MIGRATIONS + 1), Step.GIVE_UP, 0),
    ],
)
def test_what_follows_losses(losses: list[tuple[Ending, int]], step: Step, strikes: int) -> None:
    state, last = Losses(), None
    for ending, progress in losses:
        state, last = state.after(ending, progress)
    assert (last, state.strikes) == (step, strikes)


def test_only_what_a_replica_had_can_be_lost() -> None:
    assert {ending for ending in Ending if ending.lost} == {CRASH, HANG, DRAIN}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"n": None, "messages": []}, 1),
        ({"n": 3, "messages": []}, 3),
        ({"prompt": "a b"}, 1),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
    ],
)
def test_number_of_choices(body: dict[str, Any], count: int) -> None:
    assert num_choices(json.dumps(body).encode()) == count


def test_a_resume_tells_all_choices_and_repeats_the_body_byte_for_byte() -> None:
    journal = Journal.parse(b"cmpl-1 1700000000 9223372036854775807")
    for marker in (b"2 3 10 11", b"0 4 4294967295", b"2 3 12", b"0 4"):
        journal.commit(marker)
    body = b'{ "n":4, "x":1.50,\n"user":"\xc3\xa9" }'
    resume = resume_body(body, journal)
    assert resume.startswith(b'{"request":' + body + b",")
    assert json.loads(resume)["resume"] == {
        "id": "cmpl-1",
        "created": 1700000000,
        "seed": 2**63 - 1,
        "choices": [
            {"token_ids": [2**32 - 1], "num_cached": 4},
            {"token_ids": [], "num_cached": 0},
            {"token_ids": [10, 11, 12], "num_cached": 3},
            {"token_ids": [], "num_cached": 0},
        ],
    }


def test_two_crashes_quarantine_and_an_answer_clears() -> None:
    strikes, suspect = Strikes(), fingerprint("/v1/completions", b"{}")
    assert strikes.add(suspect, "a", 0.0) == 1
    assert not strikes.quarantined(suspect, 1.0)
    assert strikes.add(suspect, "b", 1.0) == 2
    assert strikes.quarantined(suspect, 2.0)
    assert not strikes.quarantined(fingerprint("/v1/chat/completions", b"{}"), 2.0)
    assert not strikes.quarantined(suspect, MEMORY_SECONDS + 1.0), "it is never forgotten"
    strikes.clear(suspect)
    assert not strikes.quarantined(suspect, 2.0)
    assert len(strikes) == 0


def test_equal_requests_at_one_crash_are_one_strike() -> None:
    strikes, suspect = Strikes(), fingerprint("/v1/completions", b"{}")
    assert [strikes.add(suspect, "a", at) for at in (0.0, 0.1, SAME_CRASH_SECONDS - 0.1)] == [1, 1, 1]
    assert strikes.add(suspect, "a", SAME_CRASH_SECONDS + 0.1) == 2


def test_the_table_of_suspects_is_bounded() -> None:
    strikes = Strikes()
    for number in range(MAX_FINGERPRINTS + 10):
        strikes.add(number.to_bytes(32), "a", 0.0)
    assert len(strikes) == MAX_FINGERPRINTS


def spent(budget: RetryBudget, now: float, in_flight: int = 0) -> int:
    """How many retries there are at this moment."""
    return next(count for count in range(10_000) if not budget.spend(now, in_flight))


def test_retries_are_a_tenth_of_requests_and_a_reserve() -> None:
    for requests, in_flight, want in ((0, 0, 5), (100, 0, 15), (100, 30, 40), (1000, 30, 130)):
        budget = RetryBudget(percent=10, reserve=5)
        for _ in range(requests):
            budget.request(100.5)
        assert spent(budget, 101.0, in_flight) == want


def test_what_was_spent_comes_back_with_the_window() -> None:
    budget = RetryBudget(percent=10, reserve=5)
    assert spent(budget, 50.0) == 5
    assert spent(budget, 50.0 + WINDOW_SECONDS - 0.1) == 0
    assert spent(budget, 50.0 + WINDOW_SECONDS) == 5
    assert spent(budget, 500.0) == 5


def test_a_storm_stays_within_its_share() -> None:
    budget, sent, again = RetryBudget(percent=10, reserve=5), 0, 0
    for tick in range(6000):
        now = tick / 100
        sent += 1
        budget.request(now)
        again += budget.spend(now, 1)
    assert again <= 0.1 * sent + 5 * (60 / WINDOW_SECONDS + 1)
    assert again >= 0.09 * sent
