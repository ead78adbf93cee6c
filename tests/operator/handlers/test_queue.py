"""Each key once: coalesced while it waits, never visited twice at one time, backed off by itself."""

import asyncio
import itertools
import time

import pytest

from ryzanstein_operator.handlers import queue as module
from ryzanstein_operator.handlers.queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock)


async def nothing_due(queue: WorkQueue[str], seconds: float = 0.02) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await queue.take()
    except TimeoutError:
        return True
    return False


async def test_the_backlog_is_what_is_due_and_a_visit_knows_how_late_it_is(clock: Clock, queue: WorkQueue[str]) -> None:
    assert queue.backlog() == (0, None)
    await queue.add("a", 1.0)
    await queue.add("b", 2.0)
    await queue.add("c", 60.0)
    assert queue.backlog() == (0, None)
    clock.now = 5.0
    assert queue.backlog() == (2, 1.0)
    assert (await queue.take(), queue.waited("a")) == ("a", 4.0)
    assert queue.backlog() == (1, 2.0)


async def test_what_was_due_before_keys_were_taken_at_all_has_not_waited_for_it(
    clock: Clock, queue: WorkQueue[str]
) -> None:
    await queue.add("a", 1.0)
    clock.now = 500.0
    queue.open()
    assert queue.backlog() == (1, 500.0)
    clock.now = 500.5
    assert (await queue.take(), queue.waited("a")) == ("a", 0.5)


async def test_many_events_of_one_key_are_one_visit(queue: WorkQueue[str]) -> None:
    for _ in range(100):
        await queue.add("a", 0)
    assert len(queue) == 1
    assert await queue.take() == "a"
    await queue.done("a")
    assert await nothing_due(queue)


async def test_a_key_that_is_busy_is_visited_again_after_never_beside(queue: WorkQueue[str]) -> None:
    await queue.add("a", 0)
    await queue.take()
    await queue.add("a", 0)
    assert await nothing_due(queue)
    await queue.done("a")
    assert await queue.take() == "a"


async def test_an_earlier_time_wins_and_a_later_one_changes_nothing(queue: WorkQueue[str], clock: Clock) -> None:
    await queue.add("a", 60)
    await queue.add("a", 5)
    await queue.add("a", 90)
    clock.now = 4.9
    assert await nothing_due(queue)
    clock.now = 5.0
    assert await queue.take() == "a"
    await queue.done("a")
    clock.now = 1000
    assert await nothing_due(queue)  # the replaced times bring no visit of their own


async def test_backoff_doubles_to_a_bound_and_starts_anew_when_well(queue: WorkQueue[str]) -> None:
    delays = [await queue.retry("a") for _ in range(40)]
    assert delays[0] <= module.BACKOFF_SECONDS * 1.25
    assert all(later > earlier for earlier, later in itertools.pairwise(delays[:7]))
    assert max(delays) <= module.MAX_BACKOFF_SECONDS * 1.25
    queue.forgive("a")
    assert await queue.retry("a") <= module.BACKOFF_SECONDS * 1.25


async def test_one_key_that_fails_delays_no_other(queue: WorkQueue[str]) -> None:
    for _ in range(8):
        await queue.retry("bad")
    await queue.add("good", 0)
    assert await queue.take() == "good"


async def test_a_waiting_taker_is_woken(queue: WorkQueue[str]) -> None:
    taker = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    await queue.add("a", 0)
    async with asyncio.timeout(30):
        assert await taker == "a"


async def test_a_delayed_key_comes_by_itself() -> None:
    queue: WorkQueue[str] = WorkQueue()
    started = time.monotonic()
    await queue.add("a", 0.1)
    async with asyncio.timeout(30):
        await queue.take()
    assert time.monotonic() - started >= 0.1


async def test_steps_that_follow_one_another_are_one_visit_a_second(queue: WorkQueue[str], clock: Clock) -> None:
    visits = 0
    for _ in range(50):  # five seconds, an event each tenth
        clock.now += 0.1
        await queue.add_paced("a")
        if not await nothing_due(queue, 0):
            visits += 1
            await queue.done("a")
    assert 4 <= visits <= 6


async def test_a_lone_step_does_not_wait_for_its_pace(queue: WorkQueue[str], clock: Clock) -> None:
    clock.now = 100.0
    await queue.add_paced("a")
    clock.now += module.SETTLE_SECONDS
    assert await queue.take() == "a"
    await queue.done("a")
    await queue.add_paced("a")
    await queue.add("a")  # somebody asks for something meanwhile
    clock.now += module.SETTLE_SECONDS
    assert await queue.take() == "a"


async def test_a_thousand_keys_that_all_fail_come_back_at_a_bounded_rate(
    queue: WorkQueue[int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BACKOFF_SECONDS", 0.5)
    delays = [await queue.retry(key) for key in range(1000)]
    soon = [delay for delay in delays if delay < 1]
    assert module.RETRY_BURST <= len(soon) <= module.RETRY_BURST + module.RETRIES_PER_SECOND
    assert max(delays) == pytest.approx((1000 - module.RETRY_BURST) / module.RETRIES_PER_SECOND, abs=1)
    clock.now += 1000
    assert await queue.retry(1) < 1, "what was not used is saved up again"


async def test_what_is_over_all_goes_before_a_thousand_that_wait(clock: Clock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock, first=str.isupper)
    for number in range(1000):
        await queue.add(f"a-{number}", 0)
    clock.now = 1.0
    await queue.add("ROUTES", 0.1)
    await queue.add("NODES", 5)
    assert await queue.take() == "a-0", "not before it is due"
    clock.now = 1.1
    assert await queue.take() == "ROUTES"
    assert await queue.take() == "a-1"
    clock.now = 7.0
    assert await queue.take() == "NODES"


async def test_nothing_is_remembered_of_what_is_gone(queue: WorkQueue[str]) -> None:
    await queue.retry("a")
    await queue.add("a", 0)
    await queue.take()
    await queue.done("a")
    queue.forget("a")
    assert not queue._failures
    assert not queue._taken
