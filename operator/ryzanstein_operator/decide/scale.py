"""How many replicas a service with spec.autoscaling is to have now, and why. Pure: no clock, no I/O.

recommend.py says what the targets call for, pace.py how far the size may move; here are the bounds, the way to zero and
back, what is held for want of metrics, and the words. docs/autoscaling.md tells it to users.
"""

from dataclasses import dataclass, replace

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.pace import begun, changed, down_window, least, most, remembered, stabilized, up_window
from ryzanstein_operator.decide.recommend import Call, Calls, count, recommend
from ryzanstein_operator.decide.sizing import Decision, Memory, Seen

Limit = tuple[Reason | None, str]
FREE: Limit = (None, "")
CALLED = "called for"


@dataclass(frozen=True)
class Bounds:
    """Fewest and most replicas; what sets the latter: maxReplicas or the budget, as a reason and in words."""

    low: int
    high: int
    high_reason: Reason
    high_words: str

    @classmethod
    def of(cls, autoscaling: Autoscaling, ranks: int) -> "Bounds":
        """ranks: accelerators of one replica, 0 on CPU. One replica always fits: the spec's rules say so."""
        high, budget = autoscaling.max_replicas, autoscaling.max_accelerators
        reason, words = Reason.AT_MAXIMUM, f"maxReplicas is {high}"
        if budget is not None and ranks and budget // ranks < high:
            high, reason = max(budget // ranks, 1), Reason.ACCELERATOR_BUDGET
            words = f"maxAccelerators is {budget}, room for {high} of {ranks} each"
        return cls(min(autoscaling.min_replicas, high), high, reason, words)

    def fit(self, size: int, verb: str = CALLED) -> tuple[int, Limit]:
        """The nearest size within the bounds, and which of them moved it."""
        if size > self.high:
            return self.high, (self.high_reason, f"{count(size, verb)}; {self.high_words}")
        if size < self.low:
            return self.low, (Reason.AT_MINIMUM, f"{count(size, verb)}; minReplicas is {self.low}")
        return size, FREE


def decide(autoscaling: Autoscaling, seen: Seen, memory: Memory, now: float) -> Decision:
    """The size for now. `now`: seconds of any clock that never goes back, the one of the memory's times."""
    bounds = Bounds.of(autoscaling, seen.ranks)
    current, moved = bounds.fit(seen.current, "there")
    inside = replace(seen, current=current)
    if current == 0:
        decision = _at_zero(inside, memory)
    else:
        decision = _sized(autoscaling, inside, bounds, begun(memory, current, now), now)
    if decision.limit is None and moved != FREE:
        decision = replace(decision, limit=moved[0], limit_words=moved[1])
    kept = changed(decision.memory, seen.current, decision.replicas, now, autoscaling.behavior)
    return replace(decision, memory=kept)


def _at_zero(seen: Seen, memory: Memory) -> Decision:
    """No window, no policy and no missing metric stands between a request that waits and the first replica."""
    if not seen.waiting:
        return Decision(0, 0, memory, Reason.AT_ZERO, "no request waits: no replica is needed")
    who = "1 request waits" if seen.waiting == 1 else f"{seen.waiting} requests wait"
    return Decision(1, 1, memory, Reason.METRICS_READ, f"{who} at the gateways and there is no replica: 1 replica")


def _sized(autoscaling: Autoscaling, seen: Seen, bounds: Bounds, memory: Memory, now: float) -> Decision:
    calls = recommend(autoscaling, seen)
    if calls is None:
        return _held(seen, memory, now, Reason.PENDING, "the targets' metrics have not been read yet")
    best = calls.best
    if best is None or (calls.troubles and best.wish <= seen.current):
        return _held(seen, memory, now, Reason.METRICS_UNAVAILABLE, "; ".join(calls.troubles))
    awake = _kept_awake(autoscaling, seen, calls, memory, now) if autoscaling.min_replicas == 0 else "no"
    if not awake:
        return _asleep(autoscaling, seen, best, memory, now)
    floor = replace(bounds, low=max(bounds.low, 1))
    size, limit = floor.fit(best.wish)
    if best.wish < floor.low and bounds.low == 0:
        limit = (Reason.STABILIZING, awake)
    size, limit = _steady(autoscaling, floor, seen, size, limit, memory, now)
    size, limit = _paced(autoscaling, seen, size, limit, memory, now)
    size, limit = _placed(seen, size, limit)
    return Decision(
        size,
        best.wish,
        remembered(memory, best.wish, now, autoscaling.behavior),
        Reason.METRICS_UNAVAILABLE if calls.troubles else Reason.METRICS_READ,
        "; ".join([*calls.troubles, best.words]),
        *limit,
        best.name,
        best.value,
        str(best.target.value),
    )


def _held(seen: Seen, memory: Memory, now: float, reason: Reason, words: str) -> Decision:
    memory = replace(memory, held=(now, seen.current))
    return Decision(seen.current, seen.current, memory, reason, f"{words}: {count(seen.current)} as before")


def _kept_awake(autoscaling: Autoscaling, seen: Seen, calls: Calls, memory: Memory, now: float) -> str:
    """Why the last replica stays; empty where it may go.

    Two witnesses must agree that nobody asks: the gateways, who know of every request that came, and Prometheus, who
    remembers what a gateway that is gone has forgotten. A Query of the user's may speak for a replica without requests.
    """
    idle = autoscaling.idle_seconds_before_zero
    if seen.current > 1:
        return "1 replica is kept: the last one goes by itself"
    if calls.troubles:
        return "1 replica is kept: not all metrics are known"
    if memory.held and memory.held[0] == now:
        return "1 replica is kept: the operator has just begun to look"
    if seen.waiting:
        return "1 replica is kept: requests wait at the gateways"
    if seen.idle_seconds is None:
        return "1 replica is kept: not every gateway has said lately whether it has requests"
    if seen.active is None:
        return "1 replica is kept: Prometheus does not say whether there were requests"
    if seen.active or seen.idle_seconds < idle:
        return f"1 replica is kept until no request has been under way for {idle} s"
    asking = next((call for call in calls.usable if call.target.metric == "Query" and call.wish), None)
    return f"1 replica is kept: {asking.words}" if asking else ""


def _asleep(autoscaling: Autoscaling, seen: Seen, best: Call, memory: Memory, now: float) -> Decision:
    """The step to zero: no window holds it beyond the idle time, but the policies of scaleDown do."""
    idle = autoscaling.idle_seconds_before_zero
    size, limit = _paced(autoscaling, seen, 0, FREE, memory, now)
    words = f"no request has been under way for {idle} s: no replica is needed"
    kept = remembered(memory, best.wish, now, autoscaling.behavior)
    return Decision(size, 0, kept, Reason.AT_ZERO if size == 0 else Reason.METRICS_READ, words, *limit)


def _steady(
    autoscaling: Autoscaling, bounds: Bounds, seen: Seen, size: int, limit: Limit, memory: Memory, now: float
) -> tuple[int, Limit]:
    steady, _ = bounds.fit(stabilized(size, seen.current, autoscaling.behavior, memory, now))
    if steady == size:
        return size, limit
    way, window = ("fewer", up_window) if steady < size else ("more", down_window)
    seconds = window(autoscaling.behavior)
    return steady, (Reason.STABILIZING, f"{count(size, CALLED)} now, and {way} within the last {seconds} s")


def _paced(
    autoscaling: Autoscaling, seen: Seen, size: int, limit: Limit, memory: Memory, now: float
) -> tuple[int, Limit]:
    up, down = autoscaling.behavior.scale_up, autoscaling.behavior.scale_down
    if size > seen.current:
        name, rules, allowed = "scaleUp", up, min(size, most(seen.current, up, memory, now))
    else:
        name, rules, allowed = "scaleDown", down, max(size, least(seen.current, down, memory, now))
    if allowed == size:
        return size, limit
    why = "is disabled" if rules.select_policy == "Disabled" else f"allows {count(allowed)} for now"
    return allowed, (Reason.RATE_LIMITED, f"{count(size, CALLED)}; behavior.{name} {why}")


def _placed(seen: Seen, size: int, limit: Limit) -> tuple[int, Limit]:
    """What has no node is not asked for a second time."""
    if size <= seen.current or not seen.unplaced:
        return size, limit
    said = f": {seen.unplaced_words}" if seen.unplaced_words else ""
    words = f"{count(size, CALLED)}; {seen.unplaced} of the {seen.current} asked for before have no node{said}"
    return seen.current, (Reason.CAPACITY_UNAVAILABLE, words)
