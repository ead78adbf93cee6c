"""The words between what is measured and the size that is chosen: what scale.py takes and gives. Types alone."""

from dataclasses import dataclass

from ryzanstein_operator.api.reasons import Reason


@dataclass(frozen=True)
class Sample:
    """What Prometheus said of one target. value: in the target's unit; of a per-replica target (WaitingRequests,
    TokensPerSecond, a Query of AverageValue) the sum over all replicas. None where it cannot be used: then `trouble`
    is one sentence that says why and what to do. replicas: how many replicas it speaks of; None where that has no
    meaning (a Query) or is not known."""

    value: float | None
    replicas: int | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Seen:
    """All that a size is chosen by, beside spec.autoscaling.

    current: the size in force. ready: replicas that answer. unplaced: of those that exist, how many have no node, and
    `unplaced_words` what the scheduler says of it. samples: one for each target, in the spec's order; empty as long as
    nobody has asked. waiting: requests that gateways hold because no replica takes them. idle_seconds: since a
    request was last under way at any gateway; None where not every gateway has said lately. active: whether
    Prometheus knows of requests within idleSecondsBeforeZero; None where it does not say. ranks: accelerators that
    one replica takes; 0 on CPU.
    """

    current: int
    ready: int = 0
    unplaced: int = 0
    unplaced_words: str = ""
    samples: tuple[Sample, ...] = ()
    waiting: int = 0
    idle_seconds: float | None = None
    active: bool | None = None
    ranks: int = 0


@dataclass(frozen=True)
class Memory:
    """What is remembered from one decision to the next; begins empty with each operator. Times are of one monotonic
    clock, in seconds. wishes: (time, what the targets called for); changes: (time, size before, size after); held:
    when the size was last held for want of metrics, and what it was. It is the memory of decisions that are carried
    out: where one is not, the memory from before it goes on."""

    wishes: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int, int], ...] = ()
    held: tuple[float, int] | None = None


@dataclass(frozen=True)
class Decision:
    """The size, and how it came about.

    active, active_words: of the condition ScalingActive: MetricsRead, MetricsUnavailable, AtZero, or Pending as long as
    nobody has asked.
    limit, limit_words: of ScalingLimited: AtMaximum, AtMinimum, AcceleratorBudget, CapacityUnavailable, RateLimited,
    Stabilizing; None where the targets have what they call for. metric, value, target: of the target that decided, as
    in the status. wish: what the targets called for, before any bound.
    """

    replicas: int
    wish: int
    memory: Memory
    active: Reason
    active_words: str
    limit: Reason | None = None
    limit_words: str = ""
    metric: str = ""
    value: str = ""
    target: str = ""
