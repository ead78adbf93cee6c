"""A HorizontalPodAutoscaler (autoscaling/v2) with external metrics of AverageValue and no `behavior`, in small.

Written from the Kubernetes documentation ("Horizontal Pod Autoscaling", KEP-853), apart from the operator's code, so as
not to share its faults: the tests hold the operator to it, and the benchmark runs it as a peer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SYNC_SECONDS = 15.0
DOWN_SECONDS = 300.0
"""Its stabilization window for going down; upwards there is none."""


@dataclass
class PlainHpa:
    """Between `low` (at least 1: it cannot go to zero) and `high`. Call `size` every SYNC_SECONDS."""

    low: int
    high: int
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def size(self, current: int, metrics: Sequence[tuple[float, int]], now: float) -> int:
        """One sync. metrics: for each the total over all replicas, and what one replica is to have of it."""
        wish = max(self._replicas(total, target, current) for total, target in metrics)
        if not self._recommended:
            self._recommended.append((now, current))
        self._recommended = [(time, size) for time, size in self._recommended if time > now - DOWN_SECONDS]
        highest = max([wish, *(size for _, size in self._recommended)])
        self._recommended.append((now, wish))
        size = min(max(current, wish), highest)
        self._changes = [(time, change) for time, change in self._changes if time > now - 15.0]
        start = current - sum(change for _, change in self._changes)
        if size > current:
            size = min(size, max(start * 2, start + 4, current))
        size = min(max(size, self.low, 1), self.high)
        if size != current:
            self._changes.append((now, size - current))
        return size

    @staticmethod
    def _replicas(total: float, target: int, current: int) -> int:
        ratio = total / (target * current)
        return current if 1.0 - 0.1 <= ratio <= 1.0 + 0.1 else math.ceil(total / target)
