"""Calls that are made at one time end together: none outlives the connection that it was made over."""

import asyncio

import pytest

from ryzanstein_kubectl.cluster.session import together
from ryzanstein_operator.cluster.client import ApiError


async def test_when_one_call_fails_the_others_have_ended_before_its_error_is_told() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as a request that gives its connection back
            ended.append("slow")

    async def refused() -> None:
        await asyncio.sleep(0)
        raise ApiError(403, "pods is forbidden")

    async def both() -> None:
        async with together() as group:
            group.create_task(slow())
            group.create_task(refused())

    with pytest.raises(ApiError, match="pods is forbidden"):
        await both()
    assert ended == ["slow"]
