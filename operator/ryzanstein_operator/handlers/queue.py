"""Which visits are due, each key once. Knows keys and times; knows nothing of what a visit does.

client-go's work queue in asyncio: a key that is added while it waits is coalesced; one that is added while it is being
visited is visited again after, never at the same time.
"""

import asyncio
import contextlib
import heapq
import random
import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
_Entry = tuple[float, int, KeyT]
"""When it is due, a number that tells equal times apart, and the key."""

SETTLE_SECONDS: Final = 0.1
"""An event's visit waits this long for the other events of the same change."""
PACE_SECONDS: Final = 1.0
"""From the start of one paced visit to the next of the same key."""
BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 120.0
RETRIES_PER_SECOND: Final = 10.0
RETRY_BURST: Final = 100
"""Of all keys together, as in client-go: a thousand services that all fail must not come back as one."""


class Bucket:
    """Tokens at a steady rate, a burst of them saved up. `reserve` takes the next one, whenever it comes."""

    def __init__(self, rate: float, burst: int) -> None:
        self._interval, self._saved = 1 / rate, burst / rate
        self._next = float("-inf")

    def reserve(self, now: float) -> float:
        """Seconds from `now` until the token that is hereby taken is there."""
        self._next = max(self._next, now - self._saved) + self._interval
        return max(0.0, self._next - now)


class WorkQueue(Generic[KeyT]):
    """Use within one event loop. Keys of which `first` is true go before all others that are due."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, first: Callable[[KeyT], bool] = lambda _: False
    ) -> None:
        self._clock, self._first = clock, first
        self._due: dict[KeyT, float] = {}
        self._heaps: tuple[list[_Entry[KeyT]], list[_Entry[KeyT]]] = ([], [])
        self._number = 0
        self._busy: dict[KeyT, float] = {}
        """The keys that are being visited, and how much later than due that began, in seconds."""
        self._opened = float("-inf")
        self._failures: dict[KeyT, int] = {}
        self._taken: dict[KeyT, float] = {}
        self._retries = Bucket(RETRIES_PER_SECOND, RETRY_BURST)
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        """Keys that wait, those included that are not due yet."""
        return len(self._due)

    def open(self) -> None:
        """From now on keys are taken. What was due before, as at a standby, has not waited for a visit of ours."""
        self._opened = self._clock()

    def backlog(self) -> tuple[int, float | None]:
        """How many keys are due for a visit, and since when (of the clock) the one that has waited longest."""
        now = self._clock()
        dues = [due for due in self._due.values() if due <= now]
        return len(dues), max(min(dues), self._opened) if dues else None

    def waited(self, key: KeyT) -> float:
        """How much later than due the visit of `key` began that is under way, in seconds."""
        return self._busy[key]

    async def add(self, key: KeyT, delay: float = SETTLE_SECONDS) -> None:
        """Visit `key` in `delay` seconds, or when it is already due earlier, then."""
        due = self._clock() + delay
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        if key not in self._busy:
            self._push(due, key)
        async with self._changed:
            self._changed.notify()

    async def add_paced(self, key: KeyT) -> None:
        """Visit `key` soon, but while one event follows another not for each of them."""
        await self.add(key, max(SETTLE_SECONDS, self._taken.get(key, 0.0) + PACE_SECONDS - self._clock()))

    async def retry(self, key: KeyT) -> float:
        """Visit `key` again after its own backoff, which doubles with each call, and no sooner than the rate of all
        retries allows. Gives the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACKOFF_SECONDS * 2.0 ** min(failures, 20), MAX_BACKOFF_SECONDS) * random.uniform(0.75, 1.25)
        delay = max(delay, self._retries.reserve(self._clock()))
        await self.add(key, delay)
        return delay

    def forgive(self, key: KeyT) -> None:
        """`key` is well: its next backoff starts small again."""
        self._failures.pop(key, None)

    def forget(self, key: KeyT) -> None:
        """What `key` names is gone. Should it come again, it starts anew."""
        self._failures.pop(key, None)
        self._taken.pop(key, None)

    async def take(self) -> KeyT:
        """The next key that is due; it is busy until `done`."""
        async with self._changed:
            while True:
                wait = self._until_next()
                if wait is not None and wait <= 0:
                    return self._pop()
                # Not wait_for: below Python 3.12 it starts a task, and kopf waits for tasks it does not know.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()

    async def done(self, key: KeyT) -> None:
        """The visit of `key` has ended; if it was added meanwhile it waits for its turn now."""
        self._busy.pop(key, None)
        if key in self._due:
            self._push(self._due[key], key)
            async with self._changed:
                self._changed.notify()

    def _push(self, due: float, key: KeyT) -> None:
        self._number += 1
        heapq.heappush(self._heaps[0 if self._first(key) else 1], (due, self._number, key))

    def _until_next(self) -> float | None:
        """Seconds until the first key is due; None if none waits."""
        dues = [heap[0][0] for heap in self._heaps if self._clean(heap)]
        return min(dues) - self._clock() if dues else None

    def _clean(self, heap: "list[_Entry[KeyT]]") -> bool:
        """Drop the entries at its head that an earlier one has replaced. Says whether one is left."""
        while heap and (self._due.get(heap[0][2]) != heap[0][0] or heap[0][2] in self._busy):
            heapq.heappop(heap)
        return bool(heap)

    def _pop(self) -> KeyT:
        now = self._clock()
        heap = next(heap for heap in self._heaps if heap and heap[0][0] <= now)
        _, _, key = heapq.heappop(heap)
        self._busy[key] = max(0.0, now - max(self._due.pop(key), self._opened))
        self._taken[key] = now
        return key
