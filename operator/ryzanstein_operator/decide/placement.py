"""Groups that wait for nodes: which one is favoured, which is withdrawn, and when. Pure.

Kubernetes places pods one by one, so two groups may each hold half of what one of them needs. A group that is not
placed whole in time is withdrawn, so that it holds nothing; where several wait, the one that is nearest to whole is
favoured, for it may need just what the others hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ryzanstein_operator.decide.groups import Group
from ryzanstein_operator.decide.operation import Record, Step


@dataclass(frozen=True)
class Waiting:
    """favourite: the group that the record is to be about, with its deadline. late: the one to withdraw now, if any."""

    favourite: Group
    deadline: datetime
    late: Group | None


def waiting(groups: Sequence[Group], before: Record | None, timeout: timedelta, now: datetime) -> Waiting | None:
    """None where every group has its nodes, or its missing pods are being exchanged in good time."""
    found = [group for group in groups if group.waits_since is not None]
    if not found:
        return None
    favourite = max(found, key=lambda group: (group.seated, -group.made.timestamp(), group.name))
    deadline = _deadline(favourite, before, timeout, now)
    others = [group for group in found if group is not favourite and _own_deadline(group, timeout, now) <= now]
    late = min(others, key=lambda group: (group.seated, -group.made.timestamp(), group.name), default=None)
    if late is None and len(found) == 1 and deadline <= now:
        late = favourite
    return Waiting(favourite, deadline, late)


def _own_deadline(group: Group, timeout: timedelta, now: datetime) -> datetime:
    return (group.waits_since or now) + timeout


def _deadline(group: Group, before: Record | None, timeout: timedelta, now: datetime) -> datetime:
    """The recorded one where the record is about this group; so none is withdrawn that had no chance of its own."""
    if before is not None and before.step == Step.PLACE and before.target == group.name:
        return before.deadline
    own = _own_deadline(group, timeout, now)
    return own if own > now else (now + timeout).replace(microsecond=0)
