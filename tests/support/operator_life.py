"""An operator in the test's own process against the small API of `fakeapi`, and waits with a deadline."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fakeapi import FakeApi, Manifest
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.handlers.run import Operator
from ryzanstein_operator.settings import Settings


@contextlib.asynccontextmanager
async def running(cluster: Cluster, settings: Settings) -> AsyncIterator[Operator]:
    """A started operator, stopped as SIGTERM would stop it."""
    operator = Operator(cluster, settings)
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        operator.stop()
        async with asyncio.timeout(30):
            await task


async def until(holds: Callable[[], object], seconds: float = 50.0) -> None:
    """Wait until it holds; TimeoutError where it does not."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def until_quiet(api: FakeApi, seconds: float = 0.6) -> int:
    """Wait until no write has come for `seconds`; gives the number of writes so far.

    In many short steps: the operator is in this process, and while the machine lets all of it stand still no time
    passes for it, but one long sleep is over.
    """
    step, still, count = 0.02, 0, -1
    async with asyncio.timeout(40):
        while still * step < seconds:
            await asyncio.sleep(step)
            now = len(api.writes())
            still, count = (still + 1 if now == count else 0), now
    return count


def conditions(api: FakeApi, name: str = "chat") -> dict[str, Manifest]:
    """The conditions in a service's status, by type."""
    service = api.get(SERVICES.kind, "team", name) or {}
    return {condition["type"]: condition for condition in service.get("status", {}).get("conditions", [])}
