"""The overview, asked for from the doorbell's threads and gathered on the event loop. Knows who waits for whom.

The loop only hands out what it holds, in short turns; the answer is made of that on the asker's thread.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ryzanstein_operator.cluster.cache import Cache, key_of
from ryzanstein_operator.cluster.recent import Recent
from ryzanstein_operator.cluster.resources import PODS, SERVICES
from ryzanstein_operator.decide.times import text_of
from ryzanstein_operator.overview import MOST_SERVICES, OperatorRow, Picture, encode
from ryzanstein_worker import contract

SAME_SECONDS: Final = 1.0
"""So long an answer is given again: many who look cost no more than one."""
GATHER_SECONDS: Final = 1.5
_TURN: Final = 50
"""Services that are gathered in one turn of the event loop."""


class Show:
    """Call it from any thread but the event loop's."""

    def __init__(self, cache: Cache, recent: Recent, identity: str, leads: Callable[[], bool]) -> None:
        self._cache, self._recent, self._identity, self._leads = cache, recent, identity, leads
        self._event_loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] = (float("-inf"), b"")

    def __call__(self) -> bytes | None:
        """The answer; None where this process does not lead. Raises TimeoutError where the event loop is busy."""
        if not self._leads():
            return None
        if not self._lock.acquire(timeout=GATHER_SECONDS):
            raise TimeoutError
        try:
            if time.monotonic() - self._made[0] >= SAME_SECONDS:
                self._made = (time.monotonic(), self._make())
            return self._made[1]
        finally:
            self._lock.release()

    def _make(self) -> bytes:
        gathering = asyncio.run_coroutine_threadsafe(self._gather(), self._event_loop)
        try:
            pictures, total = gathering.result(GATHER_SECONDS)
        except TimeoutError:
            gathering.cancel()
            raise
        now = datetime.now(UTC)
        operator = OperatorRow(contract.VERSION, self._identity, leader=True, time=text_of(now))
        return encode(operator, pictures, total, now)

    async def _gather(self) -> tuple[list[Picture], int]:
        """What is held of each service; manifests in the cache are never changed, only replaced."""
        services = sorted(self._cache.all(SERVICES), key=key_of)
        pictures = []
        for number, service in enumerate(services[:MOST_SERVICES], 1):
            events = self._recent.of(service["metadata"]["uid"])
            pictures.append(Picture(service, self._cache.of(PODS, key_of(service)), events))
            if number % _TURN == 0:
                await asyncio.sleep(0)
        return pictures, len(services)
