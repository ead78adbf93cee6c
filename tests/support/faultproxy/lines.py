"""What can happen to the lines of a watch: each takes one line and says what is sent in its place, and when. Pure but
for a seeded random."""

import random
from dataclasses import dataclass, field
from typing import Protocol

Sent = tuple[tuple[float, bytes], ...]
"""(seconds from now, line)"""


class Lines(Protocol):
    """One fault of watch streams."""

    def take(self, line: bytes) -> Sent: ...


@dataclass(frozen=True)
class Dropped:
    """A part of the lines, or all, never arrives. The API server tells of such a gap by ending the watch with 410."""

    share: float = 1.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def take(self, line: bytes) -> Sent:
        return () if self.chance.random() < self.share else ((0.0, line),)


@dataclass(frozen=True)
class Delayed:
    """Every line comes `seconds` later, in order."""

    seconds: float

    def take(self, line: bytes) -> Sent:
        return ((self.seconds, line),)


@dataclass(frozen=True)
class Duplicated:
    """Every line comes twice."""

    seconds: float = 0.2

    def take(self, line: bytes) -> Sent:
        return ((0.0, line), (self.seconds, line))


@dataclass(frozen=True)
class Reordered:
    """Each line comes at a random time within `seconds`, so neighbours change places."""

    seconds: float = 0.5
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def take(self, line: bytes) -> Sent:
        return ((self.chance.uniform(0, self.seconds), line),)
