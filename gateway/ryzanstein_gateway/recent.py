"""How the requests of the last minute went: their number, and how long their first bytes took.

Pure: the time comes in. For the gateway's page; Prometheus has the metrics.
"""

import bisect
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Final

WINDOW_SECONDS: Final = 60.0
_PART_SECONDS: Final = 5.0
BOUNDS: Final = tuple(0.001 * 1.25**power for power in range(60))
"""Seconds: 1 ms to nine minutes, each bucket a quarter wider than the one before, so a quantile is off by an eighth."""
_WORD: Final = "I"


@dataclass(slots=True)
class _Part:
    began: float
    requests: int = 0
    first_bytes: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


class Recent:
    """Of one model in one process."""

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()
        self._all = _Part(0.0)
        """The sum of the parts, kept as they come and go."""

    def observe(self, now: float, first_byte: float | None) -> None:
        """A request has ended. `first_byte`: after how many seconds it came; None where none did."""
        if not self._parts or now - self._parts[-1].began >= _PART_SECONDS:
            self._forget(now)
            self._parts.append(_Part(now))
        bucket = None if first_byte is None else bisect.bisect_left(BOUNDS, first_byte)
        for part in (self._parts[-1], self._all):
            part.requests += 1
            if bucket is not None:
                part.first_bytes[bucket] += 1

    def summary(self, now: float) -> tuple[int, bytes]:
        """How many ended in the window, and how many first bytes came within each of BOUNDS (the last: later), for
        `counted`. Nothing for none."""
        self._forget(now)
        return self._all.requests, array(_WORD, self._all.first_bytes).tobytes() if self._parts else b""

    def _forget(self, now: float) -> None:
        while self._parts and now - self._parts[0].began > WINDOW_SECONDS:
            gone = self._parts.popleft()
            self._all.requests -= gone.requests
            self._all.first_bytes = list(map(sub, self._all.first_bytes, gone.first_bytes))


def counted(packed: bytes) -> list[int]:
    """The sum of any number of summaries' first bytes, one behind another: they are written, joined and read a few
    times a second, and looked into only where somebody looks at the page."""
    words = array(_WORD)
    words.frombytes(packed)
    return [sum(words[bucket :: len(BOUNDS) + 1]) for bucket in range(len(BOUNDS) + 1)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The value in seconds below which this share lies, straight through its bucket as Prometheus' histogram_quantile
    does; None of nothing."""
    rank, passed = share * sum(counts), 0
    for number, count in enumerate(counts):
        if count and passed + count >= rank:
            if number == len(BOUNDS):
                return BOUNDS[-1]
            low = BOUNDS[number - 1] if number else 0.0
            return low + (BOUNDS[number] - low) * (rank - passed) / count
        passed += count
    return None
