"""Signs of life in shared memory: one slot a rank, written by it, read by the parent without asking anyone. Slots of
ranks in other pods are written by the parent, as those pods tell.

A slot is eight words of eight bytes, a cache line: CLOCK_MONOTONIC in nanoseconds (one clock for all processes of a
machine), a count of beats, the state, then the load of rank 0's scheduler: running, waiting, millionths of the KV
blocks in use; two spare. Words are aligned, so a reader never sees half of one.
"""

import mmap
import os
import time
from enum import IntEnum

_WORDS = 8
_MILLION = 1_000_000


class RankState(IntEnum):
    """What a rank was about to do when it last gave a sign."""

    LOADING = 0
    IDLE = 1
    STEP = 2


class HeartbeatMap:
    """The slots of all ranks. The parent creates the file, ranks map the inherited descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        """`fd` stays the caller's; the map lives on without it."""
        self._map = mmap.mmap(fd, size * _WORDS * 8)
        self._words = memoryview(self._map).cast("Q")
        self.size = size

    @staticmethod
    def create(size: int) -> int:
        """A descriptor of anonymous shared memory for `size` ranks, each last seen now."""
        fd = os.memfd_create("ryzanstein-heartbeat")
        os.ftruncate(fd, size * _WORDS * 8)
        slots = HeartbeatMap(fd, size)
        for rank in range(size):
            slots.beat(rank, RankState.LOADING)
        slots.close()
        return fd

    def beat(self, rank: int, state: RankState) -> None:
        """Say that `rank` lives. Well under a microsecond: cheap enough for every layer."""
        at = rank * _WORDS
        self._words[at] = time.monotonic_ns()
        self._words[at + 1] += 1
        self._words[at + 2] = state

    def mirror(self, rank: int, age_seconds: float, beats: int, state: RankState) -> None:
        """Enter what another machine's map said of `rank` a moment ago; its clock is not ours, an age is."""
        at = rank * _WORDS
        self._words[at] = max(0, time.monotonic_ns() - round(age_seconds * 1e9))
        self._words[at + 1] = beats
        self._words[at + 2] = state

    def read(self, rank: int) -> tuple[float, int, RankState]:
        """Seconds since the last beat, beats so far, and the state."""
        at = rank * _WORDS
        age = (time.monotonic_ns() - self._words[at]) / 1e9
        return max(0.0, age), self._words[at + 1], RankState(self._words[at + 2])

    def tell_load(self, running: int, waiting: int, kv_cache_usage: float) -> None:
        """Rank 0's alone: what its scheduler has to do. `kv_cache_usage` is a share, 0 to 1."""
        self._words[3] = running
        self._words[4] = waiting
        self._words[5] = round(kv_cache_usage * _MILLION)

    def read_load(self) -> tuple[int, int, float]:
        """Running, waiting, share of the KV blocks in use, as rank 0 last told."""
        return self._words[3], self._words[4], self._words[5] / _MILLION

    def close(self) -> None:
        self._words.release()
        self._map.close()
