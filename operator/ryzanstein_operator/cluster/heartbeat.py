"""Is what we know to have changed seen through the watch? Knows versions and a clock; makes no call.

The Lease is the heartbeat: the leader renews it every two seconds and a standby reads it as often, so each process
learns of a new version by a plain request, and the same version must arrive through the watch as well. A watch that has
silently died shows in no other way: its connection stands, and nothing comes.
"""

import time
from collections.abc import Callable
from typing import Final

from ryzanstein_operator.api.wire import Manifest

STALE_SECONDS: Final = 60.0
"""A change that is known for longer than this and has not been seen means that the watch is dead."""


def version_of(manifest: Manifest) -> int:
    """The resourceVersion as a number: it only grows within one kind. 0 where there is none or it is no number."""
    text = str(manifest.get("metadata", {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


class Freshness:
    """Compares the versions that are known with those that were watched. Read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen = 0
        self._waiting: tuple[int, float] | None = None

    def expect(self, version: int) -> None:
        """`version` exists; it must be seen. The oldest one that is waited for keeps the time."""
        if version > self._seen and self._waiting is None:
            self._waiting = (version, self._clock())

    def seen(self, version: int) -> None:
        """The watch has shown `version`."""
        self._seen = max(self._seen, version)
        if self._waiting is not None and self._seen >= self._waiting[0]:
            self._waiting = None

    def forgive(self) -> None:
        """The API server itself cannot be reached: its silence is no fault of the watch."""
        self._waiting = None

    def age(self) -> float:
        """For how many seconds a known change has not been seen; 0 while all have been."""
        waiting = self._waiting
        return 0.0 if waiting is None else self._clock() - waiting[1]

    def fresh(self) -> bool:
        return self.age() < STALE_SECONDS
