"""What each rank measures of its own work, in shared memory: one account a rank, written by it, read by the parent.

Counts alone, no request and no tensor. A rank adds to words that nobody else writes, without a lock and without a
message, for some hundred nanoseconds a step; the parent makes histograms of them when it is asked. Words are aligned,
so a reader never sees half of one; it may see a step's count before its time, which the next look mends.
"""

import mmap
import os
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, Literal

from ryzanstein_worker.parallel.meter import COLLECTIVES, Collective

Phase = Literal["prefill", "decode", "mixed"]
Stage = Literal["process", "group", "weights", "profile", "kv_cache", "warm_up"]

PHASES: Final[tuple[Phase, ...]] = ("prefill", "decode", "mixed")
STAGES: Final[tuple[Stage, ...]] = ("process", "group", "weights", "profile", "kv_cache", "warm_up")
"""Of a rank's start: its process up to its first line of ours, the meeting with the other ranks, the weights, the
measuring of memory, the cache's memory, the first steps."""
STEP_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STEP_TOKENS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of the buckets; a last one, without a bound, comes behind them."""

_STEP_NS: Final = tuple(round(seconds * 1e9) for seconds in STEP_SECONDS)
_TIMES: Final = len(STEP_SECONDS) + 2  # buckets, the one without a bound, the sum
_COUNTS: Final = len(STEP_TOKENS) + 2
_AT_TOKENS: Final = len(PHASES) * _TIMES
_AT_COLLECTIVES: Final = _AT_TOKENS + _COUNTS
_AT_STAGES: Final = _AT_COLLECTIVES + 2 * len(COLLECTIVES)
_WORDS: Final = -(-(_AT_STAGES + len(STAGES)) // 8) * 8  # whole cache lines, so that ranks do not slow each other down
_STEP_AT: Final = {phase: _TIMES * place for place, phase in enumerate(PHASES)}
_COLLECTIVE_AT: Final = {name: _AT_COLLECTIVES + 2 * place for place, name in enumerate(COLLECTIVES)}
_STAGE_AT: Final = {stage: _AT_STAGES + place for place, stage in enumerate(STAGES)}


@dataclass(frozen=True)
class Distribution:
    """How often a value fell into each bucket, the last one without a bound, and the sum of all."""

    buckets: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        return sum(self.buckets)


@dataclass(frozen=True)
class CollectiveTime:
    """Of one kind, since the rank's start."""

    count: int
    seconds: float


@dataclass(frozen=True)
class RankNumbers:
    """One rank's account at a moment."""

    rank: int
    steps: dict[Phase, Distribution]  # seconds
    step_tokens: Distribution
    collectives: dict[Collective, CollectiveTime]
    load: dict[Stage, float]  # seconds; stages that were not gone through are not there


class Account:
    """A rank's own end."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def step(self, phase: Phase, nanoseconds: int, tokens: int) -> None:
        """A step was computed."""
        words, at = self._words, _STEP_AT[phase]
        words[at + bisect_left(_STEP_NS, nanoseconds)] += 1
        words[at + _TIMES - 1] += nanoseconds
        words[_AT_TOKENS + bisect_left(STEP_TOKENS, tokens)] += 1
        words[_AT_TOKENS + _COUNTS - 1] += tokens

    def collective(self, name: Collective, nanoseconds: int) -> None:
        """The rank came out of a collective."""
        at = _COLLECTIVE_AT[name]
        self._words[at] += 1
        self._words[at + 1] += nanoseconds

    def stage(self, stage: Stage, seconds: float) -> None:
        """A stage of the start took so long; more than one part of it adds up."""
        self._words[_STAGE_AT[stage]] += max(0, round(seconds * 1e9))

    def read(self, rank: int) -> RankNumbers:
        """What has been added up so far."""
        words = self._words.tolist()
        return RankNumbers(
            rank=rank,
            steps={phase: _read(words, at, _TIMES, 1e9) for phase, at in _STEP_AT.items()},
            step_tokens=_read(words, _AT_TOKENS, _COUNTS, 1),
            collectives={name: CollectiveTime(words[at], words[at + 1] / 1e9) for name, at in _COLLECTIVE_AT.items()},
            load={stage: words[at] / 1e9 for stage, at in _STAGE_AT.items() if words[at]},
        )


class Ledger:
    """The accounts of all ranks. The parent creates the file, ranks map the inherited descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        """`fd` stays the caller's; the map lives on without it."""
        self._words = memoryview(mmap.mmap(fd, size * _WORDS * 8)).cast("Q")

    @staticmethod
    def create(size: int) -> int:
        """A descriptor of anonymous shared memory for `size` ranks, with nothing in it."""
        fd = os.memfd_create("ryzanstein-ledger")
        os.ftruncate(fd, size * _WORDS * 8)
        return fd

    def account(self, rank: int) -> Account:
        """One rank's."""
        return Account(self._words[rank * _WORDS : (rank + 1) * _WORDS])


def _read(words: list[int], at: int, length: int, unit: float) -> Distribution:
    return Distribution(tuple(words[at : at + length - 1]), words[at + length - 1] / unit)
