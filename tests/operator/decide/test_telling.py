"""What of a size is told, and how often: a status is written for news, not for every sample."""

from dataclasses import replace
from itertools import pairwise

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.sizing import Decision, Memory
from ryzanstein_operator.decide.telling import CREDIT_SECONDS, TELL_SECONDS, Told, as_told, news, tell

TICK = 5.0
CALM = Decision(3, 3, Memory(), Reason.METRICS_READ, "10 wait", None, "", "WaitingRequests", "10", "5")
STEADY = replace(CALM, wish=2, limit=Reason.STABILIZING, limit_words="2 are called for now")
OTHER_TARGET = replace(CALM, active_words="90 tokens", metric="TokensPerSecond", value="90", target="40")
UNREAD = Decision(3, 3, Memory(), Reason.METRICS_UNAVAILABLE, "the value is not a number")


def writes(decisions: list[Decision], told: Told | None = None) -> list[float]:
    """When the status is written, of one decision every five seconds."""
    found, now = [], 1000.0
    for decision in decisions:
        if news(decision, told, now):
            told = tell(decision, told, now)
            found.append(now)
        now += TICK
    return found


def test_reasons_that_come_and_go_are_told_no_more_often_than_numbers() -> None:
    kinds = (CALM, STEADY, OTHER_TARGET, UNREAD)
    for pattern in ("01", "0011", "0012", "01230", "000111", "00000001", "0010010203"):
        steady = [replace(kinds[int(kind)], value=str(tick)) for tick, kind in enumerate(pattern * 100)]
        found = writes(steady)
        ahead = CREDIT_SECONDS / TELL_SECONDS + 2  # the first of all is free
        lasted = len(steady) * TICK
        assert len(found) <= lasted / TELL_SECONDS + ahead, pattern
        assert all(later - earlier <= 60 for earlier, later in pairwise(found)), f"{pattern}: nothing is told any more"


def test_a_reason_that_stays_is_told_at_once() -> None:
    told = tell(CALM, None, 0.0)
    for number, decision in enumerate((STEADY, OTHER_TARGET, UNREAD), 1):
        assert news(decision, told, number * TICK)
        told = tell(decision, told, number * TICK)


def test_after_much_to_and_fro_a_reason_that_stays_is_told_after_thirty_seconds() -> None:
    told, now = tell(CALM, None, 0.0), 0.0
    for number in range(1000):
        now = number * TICK
        decision = (CALM, STEADY)[number % 2]
        if news(decision, told, now):
            told = tell(decision, told, now)
    other = UNREAD
    assert news(other, told, now + TELL_SECONDS)


def test_another_size_is_told_at_once_and_what_follows_it_too() -> None:
    told, now = tell(CALM, None, 0.0), 0.0
    while news(STEADY, told, now):
        told = tell(STEADY, told, now)
        if news(CALM, told, now):
            told = tell(CALM, told, now)
    grown = replace(CALM, replicas=4)
    assert news(grown, told, now)
    told = tell(grown, told, now)
    assert news(replace(STEADY, replicas=4), told, now + TICK)


def test_a_number_waits_until_all_is_paid_for() -> None:
    told = tell(CALM, tell(UNREAD, None, 0.0), 0.0)
    number = replace(CALM, value="11", active_words="11 wait")
    assert not news(number, told, TELL_SECONDS - 1)
    assert news(number, told, TELL_SECONDS)
    assert not news(CALM, told, TELL_SECONDS), "nothing new"


def test_what_is_not_told_is_decided_all_the_same() -> None:
    memory = Memory(wishes=((1.0, 2),))
    kept = as_told(replace(STEADY, memory=memory), tell(CALM, None, 0.0))
    assert kept == replace(CALM, wish=2, memory=memory)
