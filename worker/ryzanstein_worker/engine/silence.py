"""Signs of life between pods: how often one is due, and for how long the other end has given none."""

import time

from ryzanstein_worker.config import EngineConfig


def sign_seconds(config: EngineConfig) -> float:
    """Between two signs of life of a pod."""
    return min(0.5, config.hang_timeout_seconds / 4)


class Silence:
    """Of one other end. If this process itself was paused, a tick counts as two at most: what the other end said
    meanwhile is still to be read."""

    def __init__(self, config: EngineConfig) -> None:
        self.seconds = 0.0
        self._most = 2 * sign_seconds(config)
        self._limit = config.hang_timeout_seconds
        self._seen = time.monotonic()

    def heard(self) -> None:
        self.seconds = 0.0

    def is_too_long(self) -> bool:
        """Once every `sign_seconds`."""
        now = time.monotonic()
        self.seconds += min(now - self._seen, self._most)
        self._seen = now
        return self.seconds > self._limit
