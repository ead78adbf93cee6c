"""Requests that were running when the engine crashed: one that was there twice is refused. Knows fingerprints only.

What runs is written into a small mapped file, which outlives the process however it ends: one that is killed for its
memory cannot write anything down. What lies in it at the next start was in flight at a crash. On Kubernetes the
directory is in the pod's scratch volume, which a restart of the container keeps.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ryzanstein_worker.server.errors import ApiError, quarantined
from ryzanstein_worker.server.in_flight import InFlight
from ryzanstein_worker.server.strikes import Strikes

PROGRESS_TOKENS = 8
"""A request that got so many tokens before a crash gets no second strike for it: most likely another was at fault."""

_log = logging.getLogger(__name__)


def fingerprint(body: bytes) -> bytes:
    """Names a request by what its client sent: SHA-256 of the body without the white space around it."""
    return hashlib.sha256(body.strip(b" \t\r\n")).digest()


class Hold:
    """A request's place among those that run."""

    __slots__ = ("_missing", "_slot", "_table")

    def __init__(self, table: InFlight, slot: int | None) -> None:
        self._table = table
        self._slot = slot
        self._missing = PROGRESS_TOKENS

    def tokens(self, count: int) -> None:
        """It got so many tokens more."""
        if self._missing > 0:
            self._missing -= count
            if self._missing <= 0 and self._slot is not None:
                self._table.mark(self._slot)


class Quarantine:
    """One worker's memory of crashes. Without a directory it lasts as long as the process, and so is of no use."""

    def __init__(self, directory: Path | None = None, name: str = "", *, now: Callable[[], float] = time.time) -> None:
        """`name` tells the workers apart that share a directory."""
        self._now = now
        stem = hashlib.sha256(name.encode()).hexdigest()[:16]
        directory = _own(directory)
        self._table = InFlight(None if directory is None else directory / f"{stem}.in-flight")
        # Whose table another process holds has no strikes to count either.
        lasting = directory is not None and self._table.lasting
        self._file = directory / f"{stem}.strikes.json" if directory is not None and lasting else None
        self._strikes = Strikes.load(self._file) if self._file is not None else Strikes()
        self._count_leftovers()

    def check(self, request: bytes) -> None:
        """Raises ApiError (422) for a request that was in flight at two crashes within the last hour."""
        if self._strikes.is_out(request, self._now()):
            raise quarantined()

    @contextmanager
    def watch(self, request: bytes) -> Iterator[Hold]:
        """For as long as a request runs. Its good end clears it; the engine's loss leaves it for the next start."""
        slot = self._table.take(request) if request else None
        try:
            yield Hold(self._table, slot)
        except BaseException as error:
            if slot is not None and not (isinstance(error, ApiError) and error.lost == "crash"):
                self._table.free(slot)
            raise
        if slot is not None:
            self._table.free(slot)
        if self._strikes.forgive(request):
            self._save()

    def close(self) -> None:
        """An orderly end: what still runs is cut off and at fault of nothing."""
        self._table.clear()
        self._table.close()

    def _count_leftovers(self) -> None:
        found = self._table.leftovers()
        self._table.clear()
        for request, progressed in found.items():
            self._strikes.add(request, self._now(), progressed=progressed)
        if found:
            _log.warning("requests were in flight at a crash", extra={"requests": len(found)})
            self._save()

    def _save(self) -> None:
        if self._file is not None:
            self._strikes.save(self._file)


def _own(directory: Path | None) -> Path | None:
    """The directory, made where absent; None, with a log line, if it is not this user's alone to write."""
    if directory is None:
        return None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if not directory.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return directory
        reason = "others may write to it"
    except OSError as error:
        reason = error.strerror or "it cannot be made"
    _log.warning("crashes will not be remembered: %s", reason, extra={"directory": str(directory)})
    return None
