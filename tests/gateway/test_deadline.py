"""Time limits without a timer each: they end what is late, leave the rest alone, and obey whoever else cancels."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from ryzanstein_gateway.deadline import Deadlines


class Skipping(selectors.SelectSelector):
    """Does not sleep: what it was to wait for has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += max(0.0, timeout or 0.0)
        return super().select(0)


class Clockwork(asyncio.SelectorEventLoop):
    """Its time passes only while nothing can be done, so that no two timers are confused by a machine that stood
    still."""

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def in_its_own_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(work)


def test_what_takes_longer_than_the_limit_is_ended_and_what_does_not_is_left_alone() -> None:
    in_its_own_time(_ended_or_left_alone())


async def _ended_or_left_alone() -> None:
    deadlines = Deadlines(0.05)

    async def work(seconds: float) -> str:
        try:
            async with deadlines.limit():
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "late"
        return "done"

    async with asyncio.timeout(5):
        first = asyncio.gather(*(work(seconds) for seconds in (0.0, 10.0, 0.001, 10.0)))
        await asyncio.sleep(0.03)  # a later one is not ended with the earlier ones
        second = asyncio.gather(work(0.03), work(10.0))
        assert await first == ["done", "late", "done", "late"]
        assert await second == ["done", "late"]
    assert not deadlines.running


def test_a_limit_that_is_used_again_after_a_while_still_ends() -> None:
    in_its_own_time(_ended_again())


async def _ended_again() -> None:
    deadlines = Deadlines(0.03)
    async with asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with deadlines.limit():
                    await asyncio.sleep(10)
            await asyncio.sleep(0.04)


async def test_a_cancel_from_elsewhere_is_no_timeout() -> None:
    deadlines = Deadlines(10.0)
    entered = asyncio.Event()

    async def work() -> None:
        async with deadlines.limit():
            entered.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines.running


async def test_a_cancel_from_elsewhere_in_the_same_moment_is_obeyed() -> None:
    deadlines = Deadlines(0.0)
    entered = asyncio.Event()

    async def work() -> None:
        async with deadlines.limit():
            entered.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await entered.wait()
    deadlines._look()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_fails_inside_a_limit_fails_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Deadlines(10.0).limit():
            raise ZeroDivisionError
