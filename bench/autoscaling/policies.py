"""What sizes the plant: our own decision, and its peers as their documentation has them. Each sees the same metrics.

Sources of KEDA's: "ScaledObject specification" and "Scaling Deployments" in its documentation. HPA is that of
tests/support/plain_hpa.py, which the operator's tests hold the operator to.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from plain_hpa import SYNC_SECONDS, PlainHpa
from ryzanstein_operator.api.autoscaling import Autoscaling, Behavior, ScalingPolicy, ScalingRules, Target
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Memory, Sample, Seen

POLL_SECONDS = 30.0
Metric = Literal["WaitingRequests", "TokensPerSecond"]


@dataclass(frozen=True)
class Targets:
    """The same for all. waiting, tokens: requests that wait and tokens a second, of each replica; 0: not used. idle:
    seconds without a request before the last replica goes."""

    waiting: int
    tokens: int
    low: int
    high: int
    idle: float = 300.0


@dataclass(frozen=True)
class View:
    """What may be known at a moment. current: the size in force. waiting, tokens: as of the last scrape, the latter the
    rate over a minute. queued, idle: what gateways say themselves, now. active: whether the scrapes
    of so long show requests."""

    current: int
    ready: int
    waiting: float
    tokens: float
    queued: int
    idle: float
    active: bool


class Policy(Protocol):
    """every: seconds between decisions; wakes: whether a request that finds no replica is told of at once."""

    name: str
    every: float
    wakes: bool
    targets: Targets

    def size(self, view: View, now: float) -> int:
        """The size from now on."""


class Ours:
    """The operator's: asked every five seconds, as it asks Prometheus, and when a request waits at zero."""

    every, wakes = 5.0, True

    def __init__(self, targets: Targets, name: str = "Ryzanstein", up: tuple[ScalingPolicy, ...] = ()) -> None:
        self.targets, self.name = targets, name
        asked: tuple[tuple[Metric, int], ...] = (
            ("WaitingRequests", targets.waiting),
            ("TokensPerSecond", targets.tokens),
        )
        self.autoscaling = Autoscaling(
            min_replicas=targets.low,
            max_replicas=targets.high,
            idle_seconds_before_zero=int(targets.idle),
            targets=[Target(metric=metric, value=value) for metric, value in asked if value],
            behavior=Behavior(scale_up=ScalingRules(policies=list(up) or None)),
        )
        self.memory = Memory()

    def size(self, view: View, now: float) -> int:
        """decide.scale's."""
        values = {"WaitingRequests": view.waiting, "TokensPerSecond": view.tokens}
        seen = Seen(
            current=view.current,
            ready=view.ready,
            samples=tuple(Sample(values[target.metric], view.ready) for target in self.autoscaling.targets),
            waiting=view.queued,
            idle_seconds=view.idle,
            active=view.active,
        )
        decision = decide(self.autoscaling, seen, self.memory, now)
        self.memory = decision.memory
        return decision.replicas


class Hpa:
    """A HorizontalPodAutoscaler with its defaults."""

    every, wakes = SYNC_SECONDS, False

    def __init__(self, targets: Targets, name: str = "HPA, KEDA") -> None:
        self.targets, self.name = targets, name
        self._plain = PlainHpa(targets.low, targets.high)

    def size(self, view: View, now: float) -> int:
        """One sync."""
        pairs = ((view.waiting, self.targets.waiting), (view.tokens, self.targets.tokens))
        return self._plain.size(view.current, [(total, target) for total, target in pairs if target], now)


class Keda:
    """KEDA's defaults: polled every 30 seconds, to zero some time after anything was last above zero (300 seconds), and
    between one and the most the HPA that it makes."""

    name, every, wakes = "KEDA", SYNC_SECONDS, False

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self._hpa = Hpa(targets)
        self._polled = -math.inf
        self._active_at = 0.0

    def size(self, view: View, now: float) -> int:
        """A sync of the HPA, and every other time a poll of KEDA's own."""
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            if view.waiting > 0 or view.tokens > 0:
                self._active_at = now
                if view.current == 0:
                    return 1
            elif view.current and now - self._active_at > self.targets.idle:
                return 0
        return self._hpa.size(view, now) if view.current else 0


def policies(targets: Targets) -> tuple[Policy, ...]:
    """Each new, without a memory. Above zero KEDA is the HPA that it makes."""
    if targets.low:
        return Ours(targets), Hpa(targets)
    return Ours(targets), Keda(targets), Hpa(targets, "HPA, which keeps one")
