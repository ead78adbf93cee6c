"""The fingerprints of the requests that run now, in a file mapped into memory. Knows bytes and slots.

A slot is a flag byte and 32 bytes. Writing one costs no system call and survives the process, as pages of the file.
"""

import fcntl
import logging
import mmap
import os
from pathlib import Path

SLOTS = 1024
"""More requests than these at once go without a slot."""
_SIZE = 33
_FREE, _BEGUN, _PROGRESSED = 0, 1, 2

_log = logging.getLogger(__name__)


class InFlight:
    """`lasting` is False where there is no file: none was asked for, it cannot be had, or another process has it."""

    def __init__(self, path: Path | None) -> None:
        descriptor = None if path is None else _open(path)
        self.lasting = descriptor is not None
        self._map = mmap.mmap(-1 if descriptor is None else descriptor, SLOTS * _SIZE)
        self._descriptor = descriptor  # stays open: the lock goes with it, however the process ends
        self._unused: list[int] = list(range(SLOTS))

    def leftovers(self) -> dict[bytes, bool]:
        """What a process before this one left; True for those that had made progress in every slot they had."""
        found: dict[bytes, bool] = {}
        for at in range(0, SLOTS * _SIZE, _SIZE):
            flag, request = self._map[at], self._map[at + 1 : at + _SIZE]
            if flag in (_BEGUN, _PROGRESSED):
                found[request] = found.get(request, True) and flag == _PROGRESSED
        return found

    def take(self, request: bytes) -> int | None:
        """A slot for a request that begins; None if all are taken."""
        if not self._unused:
            return None
        slot = self._unused.pop()
        at = slot * _SIZE
        self._map[at + 1 : at + _SIZE] = request
        self._map[at] = _BEGUN
        return slot

    def mark(self, slot: int) -> None:
        self._map[slot * _SIZE] = _PROGRESSED

    def free(self, slot: int) -> None:
        self._map[slot * _SIZE] = _FREE
        self._unused.append(slot)

    def clear(self) -> None:
        """Empty every slot."""
        for at in range(0, SLOTS * _SIZE, _SIZE):
            self._map[at] = _FREE

    def close(self) -> None:
        """Let another process have the file, as it is. What still runs goes on without."""
        self._map = mmap.mmap(-1, SLOTS * _SIZE)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int | None:
    """A descriptor of the file at its full size, locked by this process; None, with a log line, if it cannot be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _log.warning("crashes will not be remembered: %s", error.strerror, extra={"file": str(path)})
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(descriptor, 0, SLOTS * _SIZE)  # or a full disk would be told by a signal, at a write
    except OSError as error:
        os.close(descriptor)
        reason = "another worker uses the file" if isinstance(error, BlockingIOError) else error.strerror
        _log.warning("crashes will not be remembered: %s", reason, extra={"file": str(path)})
        return None
    return descriptor
