"""One visit's decision about the groups of a service: what to make, what to end, what to write down. Pure.

Level-triggered: everything follows from the objects that are there, and from the record (`operation.py`) for what no
object shows. A withdrawal is written down at one visit and carried out at a later one, so that neither a crash between
the two nor a write that fails loses why it was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ryzanstein_operator.api.inference_service import Failure
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.groups import Group
from ryzanstein_operator.decide.operation import Record, Step, Type, pause, rollout_id
from ryzanstein_operator.decide.placement import Waiting, waiting
from ryzanstein_operator.decide.rollout import Condemned, Course, Removal, Wish, condemned, creations, removals
from ryzanstein_operator.decide.times import text_of
from ryzanstein_operator.desired import names

STALLED = timedelta(minutes=30)
"""A group that has its nodes may download and load for long; only after this is it called stuck."""


@dataclass(frozen=True)
class Turn:
    """failure: what has just gone wrong, not told yet. again_at: when time alone may change the decision."""

    create: tuple[int, ...] = ()
    remove: tuple[Removal, ...] = ()
    record: Record | None = None
    failure: Failure | None = None
    again_at: datetime | None = None

    @property
    def in_place(self) -> bool:
        return self.record is not None and self.record.in_place

    @property
    def rolled_out(self) -> bool:
        """Nothing is under way but the mending of what stood."""
        return self.record is None or self.record.type in (Type.REPLACE, Type.PLACE)

    def stalled(self, now: datetime) -> str:
        """A sentence about a group that should long be ready, or nothing."""
        if self.record is None or self.record.step != Step.START or now < self.record.deadline:
            return ""
        return f"{self.record.target} has its nodes and has not become ready for {STALLED.seconds // 60} minutes"


def take(wish: Wish, groups: Sequence[Group], taken: frozenset[str], before: Record | None, now: datetime) -> Turn:
    """`taken`: names of groups that are or of which pods are left; `before`: the record that stands."""
    before = _still_meant(wish, groups, before)
    withdrawn = before.target if before is not None and before.step == Step.WITHDRAW else ""
    lost = condemned(groups, now)
    live = [group for group in groups if group.leaving is None and group.name not in lost.words]
    pending = any(group.name == withdrawn and not group.placed for group in live)
    waits = waiting([group for group in live if group.name != withdrawn], before, wish.timeout, now)
    if waits and waits.late and not pending:
        return _withdraw(wish, groups, waits.late, before, now)
    course = Course(
        in_place=before is not None and before.in_place,
        one_at_a_time=before is not None and before.tries > 0,
        paused=_paused(before, waits, now),
        withdrawn=withdrawn,
    )
    remove = removals(wish, groups, lost, course)
    create = creations(wish, groups, remove, taken, course, now)
    ending = {removal.group.name for removal in remove}
    waits = waiting([group for group in live if group.name not in ending], before, wish.timeout, now)
    record = _record(wish, groups, create, remove, before, waits, now)
    again_at = _again([lost.due, *_moments(groups, record, waits)], now)
    return Turn(create, remove, record, _replaced(remove, lost, now), again_at)


def _still_meant(wish: Wish, groups: Sequence[Group], before: Record | None) -> Record | None:
    """The record, unless the spec has changed what it was about: then all is tried anew."""
    if before is None or (before.type == Type.ROLLOUT and before.id in _rollout_ids(wish)):
        return before
    scale = before.type == Type.SCALE and before.id == _scale_id(wish)
    other = before.type in (Type.REPLACE, Type.PLACE) and not _outdated(wish, groups)
    return before if scale or other else None


def _withdraw(wish: Wish, groups: Sequence[Group], late: Group, before: Record | None, now: datetime) -> Turn:
    """Write down that `late` is to be withdrawn; nothing else, for what is written must be so before it is done."""
    old = [group for group in groups if group.leaving is None and group.revision != wish.revision and group is not late]
    tries = 1 + (before.tries if before else 0)
    first = bool(old) and wish.replicas > 0 and not (before and before.in_place)
    kind, name = _identity(wish, groups, (), before)
    if first:
        kind, name = Type.ROLLOUT, rollout_id(wish.revision, in_place=True)
    again = now if first else now + pause(tries)
    why = late.words or f"{late.seated} of {late.size} pods have a node"
    within = f"{wish.timeout.total_seconds():.0f} s"
    words = f"StatefulSet {late.name} could not be placed whole within {within} and is withdrawn: {why}"
    failure = Failure(time=text_of(now), reason=Reason.GROUP_WITHDRAWN, message=words[:1024], target=late.name)
    rest = "an old replica goes first" if first else f"tried again at {text_of(again)}"
    record = Record(name, kind, Step.WITHDRAW, late.name, tries, again.replace(microsecond=0), f"{words}; {rest}")
    return Turn(record=record, failure=failure, again_at=now)


def _paused(before: Record | None, waits: Waiting | None, now: datetime) -> bool:
    return before is not None and waits is None and before.step in (Step.WITHDRAW, Step.PAUSE) and now < before.deadline


def _record(
    wish: Wish,
    groups: Sequence[Group],
    create: tuple[int, ...],
    remove: tuple[Removal, ...],
    before: Record | None,
    waits: Waiting | None,
    now: datetime,
) -> Record | None:
    """What is under way after this visit; None where nothing is."""
    if before is None and not _begins(wish, groups, create, remove, waits):
        return None
    kind, name = _identity(wish, groups, remove, before)
    tries = before.tries if before else 0
    failed = before.message if before and tries else ""
    if waits:
        words = _place_words(waits, failed)
        return Record(name, kind, Step.PLACE, waits.favourite.name, tries, waits.deadline, words)
    if create:
        target = names.group(wish.service, wish.revision, create[0])
        deadline = (now + wish.timeout).replace(microsecond=0)
        return Record(name, kind, Step.PLACE, target, tries, deadline, failed or f"{target} is being made")
    gone = {removal.group.name for removal in remove}
    staying = [group for group in groups if group.leaving is None and group.name not in gone]
    leaving = [group for group in groups if group.name in gone or (group.leaving and group.holds(now))]
    short = sum(group.revision == wish.revision for group in staying) < wish.replicas
    if before and short and _paused(before, None, now):
        return Record(name, kind, Step.PAUSE, before.target, tries, before.deadline, before.message)
    record = _drains(leaving, failed, now) or _starts(staying)
    if record is None:
        return None
    return _steady(replace(record, id=name, type=kind, tries=0 if record.step == Step.START else tries), before)


def _drains(leaving: Sequence[Group], failed: str, now: datetime) -> Record | None:
    if not leaving:
        return None
    first = leaving[0]
    deadline = first.due or (now + first.grace).replace(microsecond=0)
    words = failed or f"{first.name} lets its running requests end"
    return Record("", Type.SCALE, Step.DRAIN, first.name, 0, deadline, words)


def _starts(staying: Sequence[Group]) -> Record | None:
    unready = [group for group in staying if not group.ready]
    if not unready:
        return None
    first = unready[0]
    words = f"{first.name} has its nodes and is not ready so far"
    return Record("", Type.SCALE, Step.START, first.name, 0, first.made + STALLED, words)


def _begins(
    wish: Wish,
    groups: Sequence[Group],
    create: tuple[int, ...],
    remove: tuple[Removal, ...],
    waits: Waiting | None,
) -> bool:
    """Is there anything to do? A group whose ranks have ended and start again by themselves is nothing of ours."""
    short = sum(group.leaving is None for group in groups) < wish.replicas
    return bool(create or remove or waits or short or _outdated(wish, groups))


def _steady(record: Record, before: Record | None) -> Record:
    """The same step of the same group keeps its deadline: no write without a change."""
    if before and (before.id, before.step, before.target) == (record.id, record.step, record.target):
        return before
    return record


def _identity(
    wish: Wish, groups: Sequence[Group], remove: tuple[Removal, ...], before: Record | None
) -> tuple[Type, str]:
    if before is not None and before.type == Type.ROLLOUT:
        return before.type, before.id
    if _outdated(wish, groups):
        return Type.ROLLOUT, rollout_id(wish.revision, in_place=False)
    if before is not None:
        return before.type, before.id
    live = [group for group in groups if group.leaving is None]
    if len(live) != wish.replicas:
        return Type.SCALE, _scale_id(wish)
    if remove:
        return Type.REPLACE, f"replace-{remove[0].group.name}"
    return Type.PLACE, f"place-{wish.generation}"


def _rollout_ids(wish: Wish) -> tuple[str, str]:
    return rollout_id(wish.revision, in_place=False), rollout_id(wish.revision, in_place=True)


def _scale_id(wish: Wish) -> str:
    return f"scale-{wish.generation}-{wish.replicas}"


def _outdated(wish: Wish, groups: Sequence[Group]) -> bool:
    return any(group.leaving is None and group.revision != wish.revision for group in groups)


def _place_words(waits: Waiting, failed: str) -> str:
    group = waits.favourite
    words = f"{group.seated} of {group.size} pods of StatefulSet {group.name} have a node"
    return f"{words}; {group.words}" if group.words else failed or words


def _replaced(remove: tuple[Removal, ...], lost: Condemned, now: datetime) -> Failure | None:
    broken = [removal for removal in remove if removal.group.name in lost.words]
    if not broken:
        return None
    name, why = broken[0].group.name, broken[0].why
    words = f"StatefulSet {name} is replaced whole: {why}"
    return Failure(time=text_of(now), reason=Reason.GROUP_REPLACED, message=words[:1024], target=name)


def _moments(groups: Sequence[Group], record: Record | None, waits: Waiting | None) -> list[datetime | None]:
    dues = [member.due for group in groups for member in group.members] + [group.due for group in groups]
    return [*dues, record.deadline if record else None, waits.deadline if waits else None]


def _again(moments: Sequence[datetime | None], now: datetime) -> datetime | None:
    return min((moment for moment in moments if moment and moment > now), default=None)
