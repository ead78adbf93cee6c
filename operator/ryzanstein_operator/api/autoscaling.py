"""How the number of replicas follows the load, as users write it and read it back.

Names and defaults are HorizontalPodAutoscaler's (autoscaling/v2) where it has them. Docstrings become the CRD's
descriptions and the reference. Knows nothing of how a size is chosen.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ryzanstein_operator.api import rules
from ryzanstein_operator.api.wire import Rule, Wire


class Target(Wire):
    """One metric and the value that the number of replicas is to keep it at."""

    metric: Literal["WaitingRequests", "KVCacheUsagePercent", "TimeToFirstTokenMillis", "TokensPerSecond", "Query"]
    """`WaitingRequests`: requests that wait at the gateways and in the replicas, per replica. `KVCacheUsagePercent`:
    the replicas' mean share of key-value blocks in use. `TimeToFirstTokenMillis`: its 95th percentile over the last
    minute. `TokensPerSecond`: generated tokens over the last minute, per replica. `Query`: what `query` says."""
    value: int = Field(ge=1, le=1_000_000_000)
    """What is to be kept."""
    query: str | None = Field(default=None, min_length=1, max_length=1024)
    """With `Query`: an instant query in PromQL that gives one number."""
    type: Literal["AverageValue", "Value"] | None = None
    """With `Query`: `AverageValue` (the default) divides the number by `value`, as of a total that the replicas share;
    `Value` compares the two, and multiplies the replicas by how much it is off, as of a latency."""

    rules: ClassVar[tuple[Rule, ...]] = rules.AUTOSCALING_TARGET


class ScalingPolicy(Wire):
    """How far the size may move within a period."""

    type: Literal["Replicas", "Percent"]
    """What `value` counts."""
    value: int = Field(ge=1, le=100_000)
    """So many replicas, or percent of those at the period's beginning."""
    period_seconds: int = Field(ge=1, le=1800)
    """The period that is looked back."""


Policies = Annotated[list[ScalingPolicy], Field(max_length=4, json_schema_extra={"x-kubernetes-list-type": "atomic"})]


class ScalingRules(Wire):
    """How readily the size moves in one direction."""

    stabilization_window_seconds: int | None = Field(default=None, ge=0, le=3600)
    """Of what was called for within so long the most cautious holds. Left out: 0 up, 300 down."""
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    """Which of several policies holds: the one that moves furthest, or least; `Disabled` forbids this direction."""
    policies: Policies | None = None
    """Left out: up, in 15 seconds, as many again or 4, what is more; down, all of them in 15 seconds."""
    tolerance_percent: int = Field(default=10, ge=0, le=100)
    """A target that is missed by no more than this calls for no change."""


class Behavior(Wire):
    """How readily the size moves."""

    scale_up: ScalingRules = Field(default_factory=ScalingRules)
    """Towards more replicas."""
    scale_down: ScalingRules = Field(default_factory=ScalingRules)
    """Towards fewer."""


class Autoscaling(Wire):
    """Between which bounds, and by what, the number of replicas follows the load."""

    min_replicas: int = Field(default=1, ge=0, le=1000)
    """Never fewer. With 0 the last replica goes after `idleSecondsBeforeZero`, and comes back for the first request,
    which waits for it."""
    max_replicas: int = Field(ge=1, le=1000)
    """Never more."""
    max_accelerators: int | None = Field(default=None, ge=1, le=100_000)
    """Never more than fit into so many accelerators, counting `parallelism.tensor` for each replica."""
    targets: Annotated[
        list[Target], Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ]
    """The one that calls for most replicas decides."""
    behavior: Behavior = Field(default_factory=Behavior)
    """How readily the size moves."""
    idle_seconds_before_zero: int = Field(default=600, ge=10, le=86_400)
    """With `minReplicas: 0`: how long no request may have been under way before the last replica goes."""

    rules: ClassVar[tuple[Rule, ...]] = rules.AUTOSCALING


class AutoscalingStatus(Wire):
    """What the number of replicas was last chosen by."""

    metric: str = Field(default="", max_length=64)
    """The target that decided; empty where none did."""
    value: str = Field(default="", max_length=32)
    """What it was, as a decimal number in the target's unit."""
    target: str = Field(default="", max_length=32)
    """What it is to be kept at."""
    message: str = Field(default="", max_length=1024)
    """Why so many replicas, in words, and why not more."""
    last_scale_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, max_length=32)
    """When the size was last changed, RFC 3339 in UTC."""
