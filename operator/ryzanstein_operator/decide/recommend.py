"""What each target calls for: HorizontalPodAutoscaler's algorithm (autoscaling/v2), on what Prometheus said. Pure.

Knows neither bounds nor time; pace.py and scale.py do. Source: "Horizontal Pod Autoscaling", Algorithm details, in the
Kubernetes documentation.
"""

import math
from dataclasses import dataclass
from decimal import Decimal

from ryzanstein_operator.api.autoscaling import Autoscaling, Target
from ryzanstein_operator.decide.sizing import Sample, Seen

ABSURD = 1e12
"""No metric of a service is beyond this: not tokens a second of a thousand replicas, not milliseconds (31 years)."""
FULL_PERCENT = 101.0
"""A share above this is nonsense; a little above 100 is rounding."""
DUST = 1e-9
"""Relative error of floats: 3.0000000004 replicas are 3."""


@dataclass(frozen=True)
class Call:
    """What one target calls for. value: of the sample, in the target's unit; value and target as decimals."""

    target: Target
    name: str
    wish: int
    value: str
    words: str


@dataclass(frozen=True)
class Calls:
    """What all targets call for: those that can be used, and a sentence for each that cannot."""

    usable: tuple[Call, ...]
    troubles: tuple[str, ...]

    @property
    def best(self) -> Call | None:
        """The first of those that call for most."""
        return max(self.usable, key=lambda call: call.wish, default=None)


def recommend(autoscaling: Autoscaling, seen: Seen) -> Calls | None:
    """None as long as the samples are not those of the targets: nobody has asked yet."""
    if len(seen.samples) != len(autoscaling.targets):
        return None
    usable: list[Call] = []
    troubles: list[str] = []
    for position, (target, sample) in enumerate(zip(autoscaling.targets, seen.samples, strict=True), start=1):
        name = _name(autoscaling, target, position)
        trouble = _trouble(target, sample)
        if trouble or sample.value is None:
            troubles.append(f"{name}: {trouble}")
        else:
            usable.append(_call(autoscaling, target, name, sample.value, sample.replicas, seen))
    return Calls(tuple(usable), tuple(troubles))


def number(value: float) -> str:
    """As a decimal of three significant digits, so that words do not change with every sample; below 0.001 it is 0."""
    return "0" if value < 1e-3 else format(Decimal(f"{value:.3g}"), "f")


def count(replicas: int, verb: str = "") -> str:
    """So many replicas, in words; with a verb, as in "2 replicas are called for"."""
    if replicas == 1:
        return f"1 replica is {verb}" if verb else "1 replica"
    return f"{replicas} replicas are {verb}" if verb else f"{replicas} replicas"


def _name(autoscaling: Autoscaling, target: Target, position: int) -> str:
    alike = sum(other.metric == target.metric for other in autoscaling.targets)
    return target.metric if alike == 1 else f"{target.metric} (target {position})"


def _trouble(target: Target, sample: Sample) -> str:
    """Why a sample cannot be used; empty where it can."""
    value = sample.value
    if value is None:
        return sample.trouble or "there is no value"
    if math.isnan(value):
        return "the value is not a number"
    if value < 0:
        return "the value is below 0"
    if value > ABSURD:
        return "the value is absurdly large"
    if target.metric == "KVCacheUsagePercent" and value > FULL_PERCENT:
        return "the value is above 100 percent"
    return ""


def _shared(target: Target) -> bool:
    """Whether the value is a total that the replicas share, rather than one that all of them have."""
    if target.metric == "Query":
        return target.type != "Value"
    return target.metric in ("WaitingRequests", "TokensPerSecond")


def _known_without_replicas(target: Target) -> bool:
    """Whether the value means something while no replica is ready: gateways count those who wait, too."""
    return target.metric == "WaitingRequests" or (target.metric == "Query" and _shared(target))


def _call(autoscaling: Autoscaling, target: Target, name: str, value: float, reporting: int | None, seen: Seen) -> Call:
    working = min(seen.ready, seen.current)
    if working == 0 and not _known_without_replicas(target):
        words = f"no replica is ready, so {name} says nothing: {count(seen.current)} as before"
        return Call(target, name, seen.current, number(value), words)
    speaking = working if reporting is None else min(reporting, working)
    load = value / target.value if _shared(target) else value / target.value * speaking
    wish = _wish(autoscaling, load, working, speaking, seen.current)
    words = f"{name} is {number(value)}{_compared(target, working, speaking, seen.current)}: {count(wish)}"
    return Call(target, name, wish, number(value), words)


def _compared(target: Target, working: int, speaking: int, current: int) -> str:
    some = count(working) if working == current else f"{working} ready of {count(current)}"
    silent = "" if speaking == working else f" ({working - speaking} of them without metrics)"
    if _shared(target):
        return f" for {some}{silent}, to be kept at {target.value} each"
    return f" on {some}{silent}, to be kept at {target.value}"


def _wish(autoscaling: Autoscaling, load: float, working: int, speaking: int, current: int) -> int:
    """How many replicas for a load of so many replicas' worth, of `working` ones of which `speaking` report.

    Towards fewer, those that do not report count as if they were at the target; towards more, as if they had nothing
    to do. What works too hard never calls for fewer than there are, nor what works too little for more: what is
    starting or leaving would be counted twice otherwise.
    """
    needed = math.ceil(load * (1 - DUST))
    if load > working:
        within = 1 + autoscaling.behavior.scale_up.tolerance_percent / 100 + DUST
        return current if load <= working * within else max(needed, current)
    load = min(load + working - speaking, working)
    within = 1 - autoscaling.behavior.scale_down.tolerance_percent / 100 - DUST
    if working and load >= working * within:
        return current
    return min(math.ceil(load * (1 - DUST)), current)
