"""The loads that policies are held against: rates over time, and the requests drawn from them. Knows no policy."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HOUR = 3600.0


@dataclass(frozen=True)
class Request:
    """When it comes (seconds), and how many tokens it is to get."""

    at: float
    tokens: int


@dataclass(frozen=True)
class Trace:
    """rate: requests a second at a time. steps: when load sets in that the replicas there cannot carry; the time to
    the first extra replica is counted from there. low: the minReplicas to run it with."""

    name: str
    title: str
    seconds: float
    rate: Callable[[float], float]
    highest: float
    steps: tuple[float, ...] = ()
    low: int = 1
    start: int = 1

    def requests(self, seed: int, mean_tokens: int) -> Iterator[Request]:
        """A Poisson process of this rate; the same for every policy that is given the same seed."""
        chance = random.Random(f"{self.name} {seed}")
        now = 0.0
        while (now := now + chance.expovariate(self.highest)) < self.seconds:
            if chance.random() * self.highest < self.rate(now):
                tokens = min(max(round(chance.expovariate(1 / mean_tokens)), 1), 4 * mean_tokens)
                yield Request(now, tokens)


def burst() -> Trace:
    """Five times the load for ten minutes."""
    return Trace("burst", "A burst", 2700.0, lambda t: 10.0 if 600 <= t < 1200 else 2.0, 10.0, (600.0,), start=3)


def ramp() -> Trace:
    """Up to twelve times the load within half an hour, and down again."""

    def rate(t: float) -> float:
        up, down = min(t / 1800, 1.0), min(max(t - 2400, 0.0) / 900, 1.0)
        return 1.0 + 11.0 * (up - down)

    return Trace("ramp", "A ramp", 4200.0, rate, 12.0, start=2)


def day(seed: int) -> Trace:
    """A day with a morning and an evening, with minutes that are up to half again as busy as their neighbours."""
    chance, noise, level = random.Random(f"day {seed}"), list[float](), 0.0
    for _ in range(24 * 60):
        level = 0.8 * level + chance.gauss(0.0, 0.08)
        noise.append(level)

    def bump(hour: float, centre: float, width: float) -> float:
        return math.exp(-(((hour - centre) / width) ** 2))

    def rate(t: float) -> float:
        hour = t / HOUR
        curve = 0.6 + 5.0 * bump(hour, 11, 2.5) + 6.5 * bump(hour, 20, 2.0)
        return max(0.0, curve * (1 + noise[int(t // 60) % len(noise)]))

    return Trace("day", "A day", 24 * HOUR, rate, 14.0, start=1)


def idle() -> Trace:
    """Nothing for most of three hours, and three bursts of five minutes; down to zero in between."""
    starts = (1800.0, 5400.0, 9000.0)
    busy = [(start, start + 300.0) for start in starts]

    def rate(t: float) -> float:
        return 4.0 if any(begin <= t < end for begin, end in busy) else 0.0

    return Trace("idle", "Idle, then bursts", 10800.0, rate, 4.0, starts, low=0)


def steady() -> Trace:
    """The same load all the time: what moves the size here is the policy itself."""
    return Trace("steady", "A steady load", 2 * HOUR, lambda _: 5.0, 5.0, start=6)


def all_traces(seed: int) -> tuple[Trace, ...]:
    """Those of the table."""
    return burst(), ramp(), day(seed), idle()
