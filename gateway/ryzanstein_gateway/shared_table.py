"""Counters and timestamps by name, shared among the gateway processes of one pod.

A file of fixed slots, mapped by every process: open addressing by a 64-bit hash of the name, a lock of the file around
each step. Holds no name, and never grows: what has been idle longest makes room. Knows nothing of what it counts.

Each process has a column of its own for counts, so that what a killed process had in flight can be taken out.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

COLUMNS: Final = 64
"""Most processes of one pod."""
SLOTS: Final = 16_384
"""Names held at one time; with the columns, 4.5 MiB."""
PROBES: Final = 16
"""How many slots a name may lie in. A name for which none of them can be freed is not held."""
LOCK_SECONDS: Final = 0.005
"""How long a process waits for the others. One that was frozen with the lock must not freeze the whole gateway."""
_LOCK_PAUSE_SECONDS: Final = 0.00005

_MAGIC: Final = b"ryzt0001"
_HEAD: Final = 64
_SLOT: Final = struct.Struct(f"<Qdd{COLUMNS}i")
_MARK: Final = struct.Struct("<Qdd")
_COUNT: Final = struct.Struct("<i")
_COUNTS: Final = struct.Struct(f"<{COLUMNS}i")
_COUNTS_AT: Final = _MARK.size


class Unavailable(Exception):  # noqa: N818 - the caller does without; it is no fault of anybody's
    """The table cannot hold this name now, or its lock is not to be had. A limit is not worth an outage: go on."""


class SharedTable:
    """One process' view. `column` is its own, of range(COLUMNS); no two processes that live may have the same."""

    def __init__(self, memory: mmap.mmap, lock: int | None, column: int, clock: Callable[[], float]) -> None:
        if not 0 <= column < COLUMNS:
            raise ValueError(f"column {column} is not one of {COLUMNS}")
        self._memory, self._lock, self._column, self._clock = memory, lock, column, clock
        self._slots = (len(memory) - _HEAD) // _SLOT.size

    @classmethod
    def private(cls, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic) -> "SharedTable":
        """A table of one process alone: no file and no lock."""
        return cls(mmap.mmap(-1, _HEAD + slots * _SLOT.size), None, 0, clock)

    @classmethod
    def attach(
        cls, path: Path, column: int, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic
    ) -> "SharedTable":
        """The table at `path`, made by whoever comes first. Its column begins at zero: what stood there was of a
        process that is gone.

        The file must not outlive a boot: timestamps are of the machine's monotonic clock. Raises OSError, and
        ValueError where the file is no such table.
        """
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            if not os.fstat(lock).st_size:
                os.truncate(lock, _HEAD + slots * _SLOT.size)
                os.pwrite(lock, _MAGIC, 0)
            memory = mmap.mmap(lock, 0)
            fcntl.lockf(lock, fcntl.LOCK_UN)
            if memory[: len(_MAGIC)] != _MAGIC or (len(memory) - _HEAD) % _SLOT.size:
                raise ValueError(f"{path} is no shared table of this version")
            table = cls(memory, lock, column, clock)
        except BaseException:
            os.close(lock)
            raise
        table.clear(column)
        return table

    def close(self) -> None:
        """Let go of the mapping and the file."""
        self._memory.close()
        if self._lock is not None:
            os.close(self._lock)

    @property
    def column(self) -> int:
        """This process' own."""
        return self._column

    def update(self, name: str, change: Callable[[float], float]) -> float:
        """Replace the timestamp of `name` (0 where it is new) by what `change` makes of it; gives the new one.

        `change` runs under the lock: it computes and does nothing else. Raises Unavailable, and what `change` raises.
        """
        with self._locked():
            at = self._find(name, room=True)
            key, _, stamp = _MARK.unpack_from(self._memory, at)
            after = change(stamp)
            _MARK.pack_into(self._memory, at, key, self._clock(), after)
            return after

    def add(self, name: str, number: int) -> int:
        """Add to this process' count of `name`, never below zero, and give the sum over all processes.

        Raises Unavailable.
        """
        with self._locked():
            at = self._find(name, room=True)
            own = at + _COUNTS_AT + _COUNT.size * self._column
            (count,) = _COUNT.unpack_from(self._memory, own)
            _COUNT.pack_into(self._memory, own, max(0, count + number))
            key, _, stamp = _MARK.unpack_from(self._memory, at)
            _MARK.pack_into(self._memory, at, key, self._clock(), stamp)
            return sum(_COUNTS.unpack_from(self._memory, at + _COUNTS_AT))

    def count(self, name: str) -> int:
        """The sum over all processes; 0 for a name that is not held. Raises Unavailable."""
        with self._locked():
            try:
                return sum(_COUNTS.unpack_from(self._memory, self._find(name, room=False) + _COUNTS_AT))
            except Unavailable:
                return 0

    def clear(self, column: int) -> None:
        """Zero the counts of one column: its process is gone. Waits for the lock as long as it takes."""
        with self._locked(patient=True):
            for at in range(_HEAD, _HEAD + self._slots * _SLOT.size, _SLOT.size):
                if self._memory[at : at + 8] != bytes(8):
                    _COUNT.pack_into(self._memory, at + _COUNTS_AT + _COUNT.size * column, 0)

    # --- slots ---------------------------------------------------------------------------------------

    def _find(self, name: str, *, room: bool) -> int:
        """The offset of a name's slot; with `room`, one is made where there is none. Raises Unavailable."""
        key = _hash(name)
        free: int | None = None
        for step in range(PROBES):
            at = _HEAD + (key + step) % self._slots * _SLOT.size
            (found,) = struct.unpack_from("<Q", self._memory, at)
            if found == key:
                return at
            if found == 0:
                free = at if free is None else free
                break  # slots are never emptied, so nothing of this name lies behind
        if not room:
            raise Unavailable
        if free is None:
            free = self._evict(key)
        _SLOT.pack_into(self._memory, free, key, self._clock(), 0.0, *(0,) * COLUMNS)
        return free

    def _evict(self, key: int) -> int:
        """The slot, of those that `key` may lie in, that was idle longest: nothing counted, nothing to flow off."""
        now, best, oldest = self._clock(), None, float("inf")
        for step in range(PROBES):
            at = _HEAD + (key + step) % self._slots * _SLOT.size
            _, touched, stamp, *counts = _SLOT.unpack_from(self._memory, at)
            if touched < oldest and stamp <= now and not any(counts):
                best, oldest = at, touched
        if best is None:
            raise Unavailable
        return best

    # --- the lock ------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, *, patient: bool = False) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        self._acquire(patient)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _acquire(self, patient: bool) -> None:
        assert self._lock is not None
        if patient:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            return
        deadline: float | None = None
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                now = time.monotonic()
                deadline = now + LOCK_SECONDS if deadline is None else deadline
                if now >= deadline:
                    raise Unavailable from None
                time.sleep(_LOCK_PAUSE_SECONDS)


def _hash(name: str) -> int:
    """64 bits, never 0 (an unused slot). Names are of our making, with keys' salts in them: nobody can choose two
    that collide."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") or 1
