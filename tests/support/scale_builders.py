"""Services with autoscaling, what is seen of them, and a loop that lets time pass, for tests of decide/scale."""

from dataclasses import dataclass, field
from typing import Any

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Decision, Memory, Sample, Seen

WAITING = {"metric": "WaitingRequests", "value": 4}
BLOCKS = {"metric": "KVCacheUsagePercent", "value": 70}
LATENCY = {"metric": "TimeToFirstTokenMillis", "value": 500}
TOKENS = {"metric": "TokensPerSecond", "value": 100}
SHARED_QUERY = {"metric": "Query", "value": 10, "query": "sum(x)"}
RATIO_QUERY = {"metric": "Query", "value": 10, "query": "avg(x)", "type": "Value"}
TROUBLE = "Prometheus does not answer; check that it is up"


def scaled(*targets: dict[str, Any], up: Any = None, down: Any = None, **fields: Any) -> Autoscaling:
    """Between 1 and 100 replicas by these targets; up and down: rules of `behavior`, as users write them."""
    behavior = {"scaleUp": up or {}, "scaleDown": down or {}}
    spec = {"maxReplicas": 100, "targets": list(targets or (WAITING,)), "behavior": behavior, **fields}
    return Autoscaling.model_validate(spec)


def policy(kind: str, value: int, period_seconds: int) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": period_seconds}


def seen(current: int, *values: float | None, ready: int | None = None, silent: int = 0, **more: Any) -> Seen:
    """With one sample for each value, of all ready replicas but `silent` ones; None is a sample that failed."""
    there = current if ready is None else ready
    samples = tuple(
        Sample(value, there - silent) if value is not None else Sample(None, None, TROUBLE) for value in values
    )
    return Seen(current=current, ready=there, samples=samples, **more)


@dataclass
class Loop:
    """Decisions one after another, each carried out at once: all replicas are ready at the next."""

    autoscaling: Autoscaling
    current: int = 1
    now: float = 1000.0
    memory: Memory = field(default_factory=Memory)

    def step(self, *values: float | None, seconds: float = 15.0, **more: Any) -> Decision:
        """What is decided for these samples; afterwards `seconds` have passed."""
        decision = decide(self.autoscaling, seen(self.current, *values, **more), self.memory, self.now)
        self.current, self.memory = decision.replicas, decision.memory
        self.now += seconds
        return decision

    def steady(self, *values: float | None, seconds: float, every: float = 15.0, **more: Any) -> list[int]:
        """The sizes while nothing changes for so long."""
        return [self.step(*values, seconds=every, **more).replicas for _ in range(int(seconds / every))]


def first(autoscaling: Autoscaling, what: Seen) -> Decision:
    """The decision at a time when there is a memory, of nothing but the size as it is, longer ago than any window."""
    return decide(autoscaling, what, Memory(wishes=((0.0, what.current),)), 10_000.0)
