"""Who waits, and who is next: bounded, fair among keys, with classes of priority and deadlines.

Pure: times come in as seconds of any one clock. Knows nothing of replicas, tasks or HTTP.

Within a class, start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996): each entry gets
a tag from its key's last one, the smallest is next, so a key that asks a hundred times as much waits behind itself.
Between classes the higher goes first, but each AGED_TURN-th turn is of whoever has waited longest: nobody starves.
"""

import bisect
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Generic, TypeVar

AGED_TURN: Final = 8

T = TypeVar("T")


class Priority(IntEnum):
    """Smaller goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True, eq=False)
class Entry(Generic[T]):
    """One that waits. `cost` is what it weighs against others of its class, `deadline` when it has waited enough."""

    item: T
    key: str
    priority: Priority
    cost: float
    arrived: float
    deadline: float
    start: float
    number: int

    @property
    def order(self) -> tuple[float, int]:
        """Its place in its class."""
        return self.start, self.number


@dataclass(slots=True)
class _Class(Generic[T]):
    """The entries of one class in their order, and each key's last tag while it is ahead of the class' time."""

    entries: list[Entry[T]] = field(default_factory=list)
    finish: dict[str, float] = field(default_factory=dict)
    time: float = 0.0

    def tag(self, key: str) -> float:
        return max(self.time, self.finish.get(key, 0.0))

    def add(self, entry: Entry[T]) -> None:
        bisect.insort(self.entries, entry, key=lambda one: one.order)
        self.finish[entry.key] = entry.start + entry.cost

    def serve(self, entry: Entry[T]) -> None:
        self.time = max(self.time, entry.start)
        self._drop(entry)

    def withdraw(self, entry: Entry[T]) -> None:
        """It was not served: if it was its key's last, the key is not charged for it."""
        if self.finish.get(entry.key) == entry.start + entry.cost:
            self.finish[entry.key] = entry.start
        self._drop(entry)

    def _drop(self, entry: Entry[T]) -> None:
        del self.entries[bisect.bisect_left(self.entries, entry.order, key=lambda one: one.order)]
        if not self.entries:
            self.finish, self.time = {}, 0.0
        elif self.finish.get(entry.key, 0.0) <= self.time:
            self.finish.pop(entry.key, None)


class FairQueue(Generic[T]):
    """Holds at most `bound` entries; whoever takes one out must be done with it, it does not come back."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._classes: dict[Priority, _Class[T]] = {priority: _Class() for priority in Priority}
        self._number = 0
        self._turn = 0

    def __len__(self) -> int:
        return sum(len(one.entries) for one in self._classes.values())

    def length(self, priority: Priority) -> int:
        """How many of one class wait."""
        return len(self._classes[priority].entries)

    def ahead(self, key: str, priority: Priority) -> int:
        """How many would go before a new entry, as far as can be told now: all of higher classes, and those of its
        own that have smaller tags."""
        own = self._classes[priority]
        before = bisect.bisect_right(own.entries, (own.tag(key), self._number), key=lambda one: one.order)
        return before + sum(self.length(one) for one in Priority if one < priority)

    def push(
        self, item: T, key: str, priority: Priority, *, cost: float = 1.0, now: float, deadline: float
    ) -> tuple[Entry[T] | None, Entry[T] | None]:
        """Let an item wait. Gives its entry, and the one that had to leave for it.

        A full queue keeps whoever would go first: the last of the lowest class leaves, which of the keys is the one
        that asks for most. If the new one would be that last itself, it is not taken in: its entry is None.
        """
        one = self._classes[priority]
        entry = Entry(item, key, priority, max(cost, 1e-9), now, deadline, one.tag(key), self._number)
        self._number += 1
        left: Entry[T] | None = None
        if len(self) >= self.bound:
            left = self._last()
            if left is None or (left.priority, left.order) < (priority, entry.order):
                return None, None
            self._classes[left.priority].withdraw(left)
        one.add(entry)
        return entry, left

    def pop(self) -> Entry[T] | None:
        """Whoever is next; None when nobody waits. An aged turn goes to the class whose head waits longest."""
        heads = [one.entries[0] for one in self._classes.values() if one.entries]
        if not heads:
            return None
        self._turn += 1
        aged = self._turn % AGED_TURN == 0
        entry = min(heads, key=lambda head: (head.arrived, head.number)) if aged else heads[0]
        self._classes[entry.priority].serve(entry)
        return entry

    def remove(self, entry: Entry[T]) -> bool:
        """Take out one that no longer wants to wait; False if it does not wait."""
        one = self._classes[entry.priority]
        at = bisect.bisect_left(one.entries, entry.order, key=lambda other: other.order)
        if at == len(one.entries) or one.entries[at] is not entry:
            return False
        one.withdraw(entry)
        return True

    def expire(self, now: float) -> list[Entry[T]]:
        """Take out those whose deadline has come."""
        late = [entry for one in self._classes.values() for entry in one.entries if entry.deadline <= now]
        for entry in late:
            self._classes[entry.priority].withdraw(entry)
        return late

    def _last(self) -> Entry[T] | None:
        return next((self._classes[one].entries[-1] for one in reversed(Priority) if self._classes[one].entries), None)
