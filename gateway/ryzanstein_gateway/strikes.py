"""Which requests were in flight when replicas died, so that one that kills them is not passed on for ever.

Counts crashes by the request's fingerprint, not clients: a hundred equal requests at one crash are one strike. Pure:
the time comes in. Holds hashes, no request.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MOST_STRIKES: Final = 2
"""So many crashes, and the request is refused."""
MEMORY_SECONDS: Final = 600.0
SAME_CRASH_SECONDS: Final = 5.0
"""Losses at one replica within so long of each other are one crash."""
MAX_FINGERPRINTS: Final = 4096


def fingerprint(path: str, body: bytes) -> bytes:
    """SHA-256 of what is asked: 32 bytes."""
    return hashlib.sha256(path.encode() + b"\n" + body).digest()


@dataclass(frozen=True, slots=True)
class _Crash:
    host: str
    at: float


class Strikes:
    """The crashes that each request was in flight at, of the last ten minutes. One for the process."""

    def __init__(self) -> None:
        self._crashes: OrderedDict[bytes, list[_Crash]] = OrderedDict()  # the longest unchanged first

    def __len__(self) -> int:
        return len(self._crashes)

    def add(self, print_: bytes, host: str, now: float) -> int:
        """A replica died or hung with this request in flight: how many crashes that makes."""
        crashes = [crash for crash in self._crashes.pop(print_, []) if now - crash.at < MEMORY_SECONDS]
        if not any(crash.host == host and now - crash.at < SAME_CRASH_SECONDS for crash in crashes):
            crashes.append(_Crash(host, now))
        self._crashes[print_] = crashes
        while len(self._crashes) > MAX_FINGERPRINTS:
            self._crashes.popitem(last=False)
        return len(crashes)

    def quarantined(self, print_: bytes, now: float) -> bool:
        """Whether the request was in flight at too many crashes to be tried once more."""
        crashes = self._crashes.get(print_, ())
        return sum(now - crash.at < MEMORY_SECONDS for crash in crashes) >= MOST_STRIKES

    def clear(self, print_: bytes) -> None:
        """The request has been answered: it is innocent."""
        self._crashes.pop(print_, None)
