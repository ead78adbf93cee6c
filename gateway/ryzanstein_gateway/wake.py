"""Tells the operator that requests wait and no replica is there to take them.

One authenticated POST, at once, then one each few seconds while they wait; all requests for a service are told of
together. Knows nothing of queues. That nobody hears it costs no request anything.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.trace import current
from ryzanstein_worker.contract import DEMAND_PATH

INTERVAL_SECONDS: Final = 3.0

_log = logging.getLogger(__name__)


class Demand(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told. `service` is the Service that the route names, `sender` this process; `traceparent` of the request
    that was the first to find no replica, where it is traced."""

    namespace: str
    service: str
    waiting: int
    sender: str
    traceparent: str = ""


class Waker:
    """One for the process. Where there are no operators it tells nobody. `told`: called with whether it was heard."""

    def __init__(
        self,
        operators: Operators,
        sender: str,
        *,
        interval: float = INTERVAL_SECONDS,
        told: Callable[[bool], None] = lambda heard: None,
    ) -> None:
        self._operators = operators
        self._sender = sender
        self._interval = interval
        self._told = told
        self._calls: dict[tuple[str, str], asyncio.Task[None]] = {}

    def call(self, route: Route, waiting: Callable[[], int]) -> None:
        """Tell now of a service without a replica, and again while `waiting` gives more than 0. Returns at once."""
        service = (route.namespace, route.service)
        if not self._operators or service in self._calls:
            return
        task = asyncio.create_task(self._keep_telling(service, waiting), name=f"wake {route.service}")
        self._calls[service] = task
        task.add_done_callback(lambda _: self._calls.pop(service, None))

    async def close(self) -> None:
        """Stop telling."""
        tasks = list(self._calls.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_telling(self, service: tuple[str, str], waiting: Callable[[], int]) -> None:
        # Once even if the first is gone again meanwhile: it did wait, and there was no replica. And no sooner again.
        number = max(1, waiting())
        while number:
            # A task has the context that it was started in: that of the request which called.
            await self._tell(Demand(*service, number, self._sender, current.get().parent))
            await asyncio.sleep(self._interval)
            number = waiting()

    async def _tell(self, demand: Demand) -> None:
        """Tell every operator that there is: the one that leads acts and says 200, the others keep it in mind."""
        answers = await self._operators.tell_all(DEMAND_PATH, msgspec.json.encode(demand))
        self._told(200 in answers)
        _log.debug("operators were told that %d requests wait for %s: %s", demand.waiting, demand.service, answers)
        if 200 not in answers:
            _log.warning("no leading operator heard that requests wait for %s: %s", demand.service, answers)
