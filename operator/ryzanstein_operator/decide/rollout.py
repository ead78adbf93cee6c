"""Which groups are made and which are ended, so that the wanted ones stand: whole groups only. Pure.

Counts as Deployments do (never more than replicas + maxSurge, never fewer ready than replicas - maxUnavailable by our
own doing), but a group that still drains counts as well: its accelerators are not free before it is gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.decide.groups import Group
from ryzanstein_operator.decide.operation import pause
from ryzanstein_operator.desired import names


@dataclass(frozen=True)
class Wish:
    """What is asked for. timeout: how long a group may wait for nodes."""

    service: str
    generation: int
    revision: str
    replicas: int
    surge: int
    unavailable: int
    timeout: timedelta

    @classmethod
    def of(cls, service: InferenceService, revision: str, replicas: int) -> "Wish":
        spec = service.spec
        return cls(
            service=service.metadata.name,
            generation=service.metadata.generation,
            revision=revision,
            replicas=replicas,
            surge=spec.disruption.max_surge,
            unavailable=spec.disruption.max_unavailable,
            timeout=timedelta(seconds=spec.parallelism.placement_timeout_seconds),
        )


@dataclass(frozen=True)
class Removal:
    """A group to delete, and why."""

    group: Group
    why: str


@dataclass(frozen=True)
class Course:
    """in_place: this rollout has no spare capacity. one_at_a_time: a placement has failed, so groups are not made to
    compete for nodes. paused: none is made now. withdrawn: the group that has been recorded as to be withdrawn."""

    in_place: bool = False
    one_at_a_time: bool = False
    paused: bool = False
    withdrawn: str = ""


@dataclass(frozen=True)
class Condemned:
    """Groups that cannot become whole by themselves, with why; due: when the next of them is to be replaced."""

    words: Mapping[str, str]
    due: datetime | None


def condemned(groups: Sequence[Group], now: datetime) -> Condemned:
    """Which groups to replace now: at once, but for one that has just been made.

    Where a lost node may not be tainted, a replacement may be put there as well; each that is left behind like that
    doubles the pause.
    """
    left = sum(any(member.lost for member in group.members) for group in groups if group.leaving)
    patience = pause(left) if left else timedelta()
    broken = {group: group.broken(now) for group in groups if group.leaving is None}
    found = {group.name: words for group, words in broken.items() if words and group.made + patience <= now}
    later = [group.made + patience for group, words in broken.items() if words and group.name not in found]
    return Condemned(found, min(later, default=None))


def removals(wish: Wish, groups: Sequence[Group], lost: Condemned, course: Course) -> tuple[Removal, ...]:
    """Groups to end now: the condemned, the withdrawn, those too many, and old ones that are no longer needed."""
    live = [group for group in groups if group.leaving is None]
    found = [Removal(group, lost.words[group.name]) for group in live if group.name in lost.words]
    found += [
        Removal(group, "it could not be placed whole, and is withdrawn to hold nothing")
        for group in live
        if group.name == course.withdrawn and not group.placed and group.name not in lost.words
    ]
    gone = {removal.group.name for removal in found}
    sound = [group for group in live if group.name not in gone]
    return (*found, *_too_many(wish, sound), *_outdated(wish, sound, course))


def creations(
    wish: Wish,
    groups: Sequence[Group],
    removed: Sequence[Removal],
    taken: frozenset[str],
    course: Course,
    now: datetime,
) -> tuple[int, ...]:
    """The indices of the groups to make now. taken: names of groups that are or of which pods are left."""
    gone = {removal.group.name for removal in removed}
    staying = [group for group in groups if group.leaving is None and group.name not in gone]
    going = [group for group in groups if (group.leaving or group.name in gone) and group.holds(now)]
    latest = [group for group in staying if group.revision == wish.revision]
    room = wish.replicas + (0 if course.in_place else wish.surge) - len(staying) - len(going)
    count = min(wish.replicas - len(latest), room)
    if course.one_at_a_time:
        count = min(count, 0 if any(not group.placed for group in staying) else 1)
    return () if course.paused else _free(wish, max(count, 0), taken)


def _free(wish: Wish, count: int, taken: frozenset[str]) -> tuple[int, ...]:
    """The lowest free indices: an operator that is started anew between two writes draws the same ones."""
    found: list[int] = []
    index = 0
    while len(found) < count:
        if names.group(wish.service, wish.revision, index) not in taken:
            found.append(index)
        index += 1
    return tuple(found)


def _too_many(wish: Wish, sound: Sequence[Group]) -> list[Removal]:
    """Of the latest revision: those that do not serve first, then the newest."""
    latest = [group for group in sound if group.revision == wish.revision]
    ordered = sorted(
        latest, key=lambda group: (not group.ready, not group.placed, group.made, group.name), reverse=True
    )
    surplus = ordered[: max(0, len(latest) - wish.replicas)]
    return [Removal(group, f"{wish.replicas} replicas are wanted") for group in surplus]


def _outdated(wish: Wish, sound: Sequence[Group], course: Course) -> list[Removal]:
    """Old ones, as many as may go: those that do not serve first, then the oldest.

    Also one that does not serve is kept while it would be needed if it came back: the new revision may never serve.
    """
    latest = [group for group in sound if group.revision == wish.revision]
    old = [group for group in sound if group.revision != wish.revision]
    floor = wish.replicas - (max(1, wish.unavailable) if course.in_place else wish.unavailable)
    serving = min(sum(group.ready for group in latest), wish.replicas)
    spare = max(0, len(old) + serving - floor)
    why = f"revision {wish.revision} is wanted"
    if course.in_place:
        why = f"{why}, and there are no nodes for a group of it beside this one"
    # In this order those that serve go only once the others have, so at least `floor` are left that do.
    ordered = sorted(old, key=lambda group: (group.ready, group.placed, group.made, group.name))
    return [Removal(group, why) for group in ordered[:spare]]
