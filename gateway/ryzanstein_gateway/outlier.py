"""Which replicas answer so much worse than the others that they are left out for a while.

Pure: samples and the time come in. Compares replicas of one model with each other alone, so a hard day for all (long
prompts, poison) ejects nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec
from msgspec.structs import replace


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierPolicy:
    """When a replica lies out. Times are seconds."""

    least_samples: int = 10
    """Fewer answers since the last look say nothing."""
    latency_ratio: float = 4.0
    """So many times the others' median latency, and `latency_slack` above it."""
    latency_slack: float = 1.0
    error_slack: float = 0.3
    """So much above the others' median share of errors."""
    most_share: float = 0.5
    """At most such a share of the replicas is out at a time, rounded down."""
    eject_for: float = 10.0
    """The first time; once more as long each time after, and once less for each look without a reason."""
    eject_for_most: float = 120.0


DEFAULT: Final = OutlierPolicy()


class Sample(msgspec.Struct, frozen=True):
    """What one replica did lately: answers with errors among them, and the mean time to their first byte."""

    answers: int = 0
    errors: int = 0
    timed: int = 0
    seconds: float = 0.0
    """Of all timed answers together."""

    def answered(self, *, error: bool) -> "Sample":
        """One more answer."""
        return replace(self, answers=self.answers + 1, errors=self.errors + error)

    def first_byte(self, seconds: float) -> "Sample":
        """One more first byte of a stream, so many seconds after it was asked for."""
        return replace(self, timed=self.timed + 1, seconds=self.seconds + seconds)


class Ejection(msgspec.Struct, frozen=True):
    """How long a replica is out, and how often in a row it was."""

    until: float = 0.0
    times: int = 0


def judge(
    samples: Mapping[str, Sample], ejections: Mapping[str, Ejection], now: float, policy: OutlierPolicy = DEFAULT
) -> dict[str, Ejection]:
    """The ejections from now on, for the replicas in `samples`. The worst go first where not all may."""
    after = {name: ejections.get(name, Ejection()) for name in samples}
    out = {name for name, ejection in after.items() if ejection.until > now}
    room = int(len(samples) * policy.most_share) - len(out)
    excess = {name: _excess(name, samples, policy) for name in samples if name not in out}
    for name in sorted(excess, key=lambda one: -excess[one]):
        times = after[name].times
        if excess[name] <= 0:
            enough = samples[name].answers >= policy.least_samples
            after[name] = replace(after[name], times=max(0, times - enough))
        elif room > 0:
            room -= 1
            after[name] = Ejection(now + min(policy.eject_for_most, policy.eject_for * (times + 1)), times + 1)
    return after


def _excess(name: str, samples: Mapping[str, Sample], policy: OutlierPolicy) -> float:
    """How far beyond its bound a replica is: above 0 it lies out."""
    own = samples[name]
    others = [sample for other, sample in samples.items() if other != name]
    errors = [one.errors / one.answers for one in others if one.answers >= policy.least_samples]
    delays = [one.seconds / one.timed for one in others if one.timed >= policy.least_samples]
    excess = 0.0
    if errors and own.answers >= policy.least_samples:
        excess = max(excess, own.errors / own.answers - median(errors) - policy.error_slack)
    if delays and own.timed >= policy.least_samples:
        usual = median(delays)
        bound = max(policy.latency_ratio * usual, usual + policy.latency_slack)
        excess = max(excess, own.seconds / own.timed / bound - 1)
    return excess
