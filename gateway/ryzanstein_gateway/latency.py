"""How long a replica lately took to its first byte. Pure: seconds and a time in, a mean out."""

import math
from dataclasses import dataclass
from typing import Final

MEMORY_SECONDS: Final = 5.0
"""Time constant: what came so long ago weighs 1/e of what comes now."""
FORGET_SECONDS: Final = 10.0
"""After so long without an answer nothing is known any more: else a replica that was slow once would be avoided, and
so never be seen to be fast again."""


@dataclass(slots=True)
class Latency:
    """Mean of the times to first byte of one replica's streams, weighted exponentially by age.

    For streams only: what is not streamed sends its first byte with its last, so its time tells the length of the
    answer.
    """

    mean: float = 0.0
    weight: float = 0.0
    at: float = -math.inf

    def observe(self, seconds: float, now: float) -> None:
        """One more answer, `now` in seconds of any clock that only goes forward."""
        self.weight = self.weight * math.exp(-max(0.0, now - self.at) / MEMORY_SECONDS) + 1.0
        self.mean += (seconds - self.mean) / self.weight
        self.at = now

    def recent(self, now: float) -> float | None:
        """Seconds; None where there was no answer for FORGET_SECONDS."""
        return self.mean if now - self.at <= FORGET_SECONDS else None
