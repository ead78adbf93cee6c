"""How far the size may move now: stabilization windows and policies, as HorizontalPodAutoscaler's `behavior`. Pure.

Knows what was called for and what was changed before (Memory), not why. Percentages are reckoned in whole numbers:
Kubernetes' floats make 12 of ten replicas and ten percent.
"""

from dataclasses import replace
from math import inf

from ryzanstein_operator.api.autoscaling import Behavior, ScalingPolicy, ScalingRules
from ryzanstein_operator.decide.sizing import Memory

UP_WINDOW_SECONDS = 0
DOWN_WINDOW_SECONDS = 300
UP_POLICIES = (
    ScalingPolicy(type="Percent", value=100, period_seconds=15),
    ScalingPolicy(type="Replicas", value=4, period_seconds=15),
)
DOWN_POLICIES = (ScalingPolicy(type="Percent", value=100, period_seconds=15),)
MOST = 1000
"""More replicas than any spec may ask for are not remembered: it bounds what is kept."""


def up_window(behavior: Behavior) -> int:
    """Seconds."""
    given = behavior.scale_up.stabilization_window_seconds
    return UP_WINDOW_SECONDS if given is None else given


def down_window(behavior: Behavior) -> int:
    """Seconds."""
    given = behavior.scale_down.stabilization_window_seconds
    return DOWN_WINDOW_SECONDS if given is None else given


def begun(memory: Memory, current: int, now: float) -> Memory:
    """The memory to decide with: of an operator that has just started, `current` was called for until now.

    So a restart lowers nothing before it has looked on for as long as the window asks, and at least once.
    """
    return memory if memory.wishes else replace(memory, wishes=((now, current),), held=(now, current))


def stabilized(wish: int, current: int, behavior: Behavior, memory: Memory, now: float) -> int:
    """The nearest to `current` of what was called for: upwards within one window, downwards within the other."""
    down = now - down_window(behavior)
    held = [size for time, size in [memory.held or (-inf, 0)] if time > down or time == now]
    lowest = min(wish, *_within(memory, now - up_window(behavior)), MOST)
    highest = max(wish, *_within(memory, down), *held, 0)
    return min(max(current, lowest), highest)


def _within(memory: Memory, cutoff: float) -> list[int]:
    return [wish for time, wish in memory.wishes if time > cutoff]


def most(current: int, rules: ScalingRules, memory: Memory, now: float) -> int:
    """How many there may be at most now, by the policies of scaleUp."""
    if rules.select_policy == "Disabled":
        return current
    allowed = [_up(policy, current, memory, now) for policy in rules.policies or UP_POLICIES]
    return max(current, min(allowed) if rules.select_policy == "Min" else max(allowed))


def least(current: int, rules: ScalingRules, memory: Memory, now: float) -> int:
    """How few there may be at least now, by the policies of scaleDown."""
    if rules.select_policy == "Disabled":
        return current
    allowed = [_down(policy, current, memory, now) for policy in rules.policies or DOWN_POLICIES]
    return min(current, max(allowed) if rules.select_policy == "Min" else min(allowed))


def _up(policy: ScalingPolicy, current: int, memory: Memory, now: float) -> int:
    start = _at_start(policy, current, memory, now)
    return start + policy.value if policy.type == "Replicas" else -(-start * (100 + policy.value) // 100)


def _down(policy: ScalingPolicy, current: int, memory: Memory, now: float) -> int:
    start = _at_start(policy, current, memory, now)
    left = start - policy.value if policy.type == "Replicas" else start * (100 - policy.value) // 100
    return max(left, 0)


def _at_start(policy: ScalingPolicy, current: int, memory: Memory, now: float) -> int:
    """The size at the beginning of the policy's period."""
    return current - sum(after - before for time, before, after in memory.changes if time > now - policy.period_seconds)


def remembered(memory: Memory, wish: int, now: float, behavior: Behavior) -> Memory:
    """With what is called for now.

    Of the former only what can still be the lowest or the highest of a window is kept: not what has both as much and
    as little after it. So it stays short, however often is asked.
    """
    window = max(up_window(behavior), down_window(behavior))
    kept = [(now, min(wish, MOST))]
    lowest = highest = kept[0][1]
    for time, former in reversed(memory.wishes):
        if time > now - window and (former < lowest or former > highest):
            kept.append((time, former))
            lowest, highest = min(lowest, former), max(highest, former)
    return replace(memory, wishes=tuple(reversed(kept)))


def changed(memory: Memory, before: int, after: int, now: float, behavior: Behavior) -> Memory:
    """With the change from `before` to `after`, if that is one; changes that no policy looks back at are forgotten."""
    policies = (*(behavior.scale_up.policies or UP_POLICIES), *(behavior.scale_down.policies or DOWN_POLICIES))
    longest = max(policy.period_seconds for policy in policies)
    kept = tuple(change for change in memory.changes if change[0] > now - longest)
    return replace(memory, changes=(*kept, (now, before, after)) if after != before else kept)
