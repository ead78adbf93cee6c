"""How long a replica lately took to its first byte. Pure: seconds and a time in, a median out."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

MOST_SAMPLES: Final = 32
LEAST_SAMPLES: Final = 5
"""Fewer say nothing."""
FORGET_SECONDS: Final = 30.0
"""What is older is no longer known: else a replica that was slow once would be avoided, and so never be seen to be
fast again."""


@dataclass(slots=True)
class Latency:
    """Median of the last times to first byte of one replica's streams. A median, because one prompt in ten that is
    thirty times as long must not make a replica look slow.

    Meant for streams alone (what is not streamed sends its first byte with its last, so its time tells the length of
    the answer), and for requests that found no queue: the queue's length is known already, and counting it twice
    sends everybody away and back again.
    """

    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    middle: float | None = None

    def observe(self, seconds: float, now: float) -> None:
        """One more answer, `now` in seconds of any clock that only goes forward."""
        self.samples.append((now, seconds))
        while self.samples[0][0] < now - FORGET_SECONDS:
            self.samples.popleft()
        enough = len(self.samples) >= LEAST_SAMPLES
        self.middle = median(seconds for _, seconds in self.samples) if enough else None

    def recent(self, now: float) -> float | None:
        """Seconds; None where too little is known."""
        return self.middle if self.samples and now - self.samples[-1][0] <= FORGET_SECONDS else None
