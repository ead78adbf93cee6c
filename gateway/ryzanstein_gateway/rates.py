"""How often a key may ask a model: the arithmetic of rate limits.

Pure: numbers and a time in, a verdict out. Knows nothing of keys, models or where a bucket is kept.

The generic cell rate algorithm (ITU-T I.371, annex A; told for web APIs by Brandur Leach, "Rate Limiting, Cells, and
GCRA"): a leaky bucket whose whole state is one timestamp, the theoretical arrival time (TAT) at which it is empty.
"""

from dataclasses import dataclass
from typing import Final

MINUTE: Final = 60.0
_EPSILON: Final = 1e-9
"""Seconds; below what a sum of floats can be off by, so that the last of a minute's requests is not refused for it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_minute` units a minute. A bucket that was left alone lets one minute's worth through at once.

    So in any one minute at most twice the number passes, and in the long run never more than the number.
    """

    per_minute: float

    @property
    def interval(self) -> float:
        """Seconds that one unit takes to flow off."""
        return MINUTE / self.per_minute


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking a bucket. `tat` is to be kept; where `allowed` is false it is the one of before.

    `retry_after`: seconds until the same would be allowed, 0 where it is. `remaining`: units that could follow at once.
    """

    allowed: bool
    tat: float
    retry_after: float
    remaining: int


def take(rate: Rate, tat: float, now: float, cost: float = 1.0) -> Verdict:
    """Ask for `cost` units of a bucket whose TAT is `tat` (0 for a new one).

    More than the bucket holds is asked for as all that it holds: it passes when the bucket is empty, and `charge`
    tells what it really was.
    """
    begin = max(tat, now)
    end = begin + min(cost, rate.per_minute) * rate.interval
    late = end - now - MINUTE
    if late > _EPSILON:
        return Verdict(False, tat, late, _remaining(rate, begin, now))
    return Verdict(True, end, 0.0, _remaining(rate, end, now))


def charge(rate: Rate, tat: float, now: float, cost: float) -> float:
    """The TAT after `cost` more units (fewer, where negative) than were taken, whether there was room or not.

    A bucket can be overdrawn so: who has used too much is let in again only when it has flowed off.
    """
    return max(tat, now) + cost * rate.interval


def _remaining(rate: Rate, tat: float, now: float) -> int:
    return max(0, int((MINUTE - (tat - now)) / rate.interval + _EPSILON))
