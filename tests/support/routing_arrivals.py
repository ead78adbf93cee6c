"""Arrival patterns for the routing simulator: who asks when, with which prompt, for how much.

Each is a seeded generator: the same seed gives the same requests to the last bit, on every machine. Times are seconds,
prompts are keys of pieces as prefix.piece_keys makes them (one piece is 128 tokens).
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

PIECE_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: `pieces` of its prompt, tokens that it will be answered with."""

    at: float
    pieces: tuple[int, ...]
    output_tokens: int


@dataclass
class _Maker:
    """Draws of one seed, and prompts that nobody else has."""

    seed: int
    draws: random.Random = field(init=False)
    fresh: int = 0

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)

    def pieces(self, count: int) -> tuple[int, ...]:
        self.fresh += count
        return tuple(range(self.fresh - count, self.fresh))

    def times(self, rate: Callable[[float], float], most: float, seconds: float) -> Iterator[float]:
        """A Poisson process whose rate changes, by thinning (Lewis, Shedler, 1979); `most` bounds the rate."""
        now = 0.0
        while (now := now + self.draws.expovariate(most)) < seconds:
            if self.draws.random() * most < rate(now):
                yield now


def steady(rate: float, seconds: float, seed: int = 1) -> list[Arrival]:
    """Poisson; prompts of 512 tokens, answers of about 100."""
    make = _Maker(seed)
    return [
        Arrival(at, make.pieces(4), make.draws.randint(80, 120)) for at in make.times(lambda _: rate, rate, seconds)
    ]


def mixed(rate: float, seconds: float, seed: int = 2) -> list[Arrival]:
    """Poisson; nine of ten are short, the tenth has a prompt of 4096 tokens and an answer ten times as long."""
    make = _Maker(seed)

    def one(at: float) -> Arrival:
        if make.draws.random() < 0.1:
            return Arrival(at, make.pieces(32), make.draws.randint(400, 600))
        return Arrival(at, make.pieces(2), make.draws.randint(20, 80))

    return [one(at) for at in make.times(lambda _: rate, rate, seconds)]


def bursts(rate: float, seconds: float, seed: int = 3) -> list[Arrival]:
    """Ten seconds at a third of the rate, then two at 13 thirds; over both it is the rate."""
    make = _Maker(seed)

    def at_time(now: float) -> float:
        return rate * (13 / 3 if now % 12 >= 10 else 1 / 3)

    return [
        Arrival(at, make.pieces(4), make.draws.randint(50, 150)) for at in make.times(at_time, rate * 13 / 3, seconds)
    ]


def diurnal(rate: float, seconds: float, seed: int = 4) -> list[Arrival]:
    """A day in `seconds`: from a fifth of the rate at night to 1.8 times it at noon."""
    make = _Maker(seed)

    def at_time(now: float) -> float:
        return rate * (1 - 0.8 * math.cos(2 * math.pi * now / seconds))

    return [
        Arrival(at, make.pieces(make.draws.randint(1, 8)), make.draws.randint(50, 150))
        for at in make.times(at_time, rate * 1.8, seconds)
    ]


def conversations(rate: float, seconds: float, seed: int = 5, systems: int = 60) -> list[Arrival]:
    """Chats of three to eight turns some seconds apart. Each begins with one of 60 system prompts of 1024 tokens, the
    first of which are much more common (Zipf), and repeats all that was said. The system prompts alone are more than
    one replica's prefix cache holds."""
    make = _Maker(seed)
    prompts = [make.pieces(8) for _ in range(systems)]
    weights = [1 / (rank + 1) for rank in range(systems)]
    found: list[Arrival] = []
    mean_turns = 5.5
    for begin in make.times(lambda _: rate / mean_turns, rate / mean_turns, seconds):
        said, at = make.draws.choices(prompts, weights)[0], begin
        for _ in range(make.draws.randint(3, 8)):
            said += make.pieces(make.draws.randint(1, 3))
            found.append(Arrival(at, said, make.draws.randint(40, 160)))
            at += make.draws.uniform(4, 20)
    return sorted((one for one in found if one.at < seconds), key=lambda one: one.at)
