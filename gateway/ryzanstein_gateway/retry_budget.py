"""How many requests may be sent a second time: few, so that a fault does not become a storm of retries.

Pure: the time comes in, in seconds.
"""

from typing import Final

WINDOW_SECONDS: Final = 10


class RetryBudget:
    """Sends beyond the first, migrations included: at most a share of the requests of the last ten seconds, plus a
    reserve.

    The reserve is never less than what is in flight: the death of a replica that carries most of the streams may be
    made good once for each of them, and long streams have hardly any new requests beside them to take a share of.
    """

    def __init__(self, *, percent: float, reserve: int) -> None:
        self._share = percent / 100
        self._reserve = reserve
        self._requests = [0] * WINDOW_SECONDS
        self._retries = [0] * WINDOW_SECONDS
        self._second = 0

    def request(self, now: float) -> None:
        """A request was sent for the first time."""
        self._requests[self._slot(now)] += 1

    def spend(self, now: float, in_flight: int) -> bool:
        """Take one retry, if one is left. `in_flight`: requests that this process is forwarding."""
        slot = self._slot(now)
        allowed = max(self._reserve, in_flight) + self._share * sum(self._requests)
        if sum(self._retries) + 1 > allowed:
            return False
        self._retries[slot] += 1
        return True

    def _slot(self, now: float) -> int:
        second = int(now)
        for passed in range(max(self._second + 1, second - WINDOW_SECONDS + 1), second + 1):
            self._requests[passed % WINDOW_SECONDS] = self._retries[passed % WINDOW_SECONDS] = 0
        self._second = max(self._second, second)
        return self._second % WINDOW_SECONDS
