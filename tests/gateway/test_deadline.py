"""Time limits without a timer each: they end what is late, leave the rest alone, and obey whoever else cancels."""

import asyncio

import pytest

from ryzanstein_gateway.deadline import Deadlines


async def test_what_takes_longer_than_the_limit_is_ended_and_what_does_not_is_left_alone() -> None:
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


async def test_a_limit_that_is_used_again_after_a_while_still_ends() -> None:
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
