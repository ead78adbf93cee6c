"""How often each request was in flight at a crash, and the file that remembers it. Knows fingerprints and a clock."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

OUT = 2
"""Crashes after which a request is refused."""
MEMORY_SECONDS = 3600.0
"""An hour after its last crash a request is as good as any other."""
MAX_REQUESTS = 1024
_MAX_FILE_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True):
    count: Annotated[int, Meta(ge=1, le=1 << 30)]
    last: float  # Unix seconds


class _File(msgspec.Struct, frozen=True):
    version: Literal[1]
    requests: Annotated[dict[Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")], _Entry], Meta(max_length=MAX_REQUESTS)]


@dataclass
class Strikes:
    """By fingerprint, those with the latest crash at the end."""

    entries: dict[bytes, _Entry] = field(default_factory=dict)

    def add(self, request: bytes, now: float, *, progressed: bool) -> None:
        """A crash with this request in flight. One that had made progress is not blamed a second time."""
        before = self._known(request, now)
        if before is not None and progressed:
            return
        self.entries.pop(request, None)
        self.entries[request] = _Entry(1 if before is None else before.count + 1, now)
        while len(self.entries) > MAX_REQUESTS:
            del self.entries[next(iter(self.entries))]

    def is_out(self, request: bytes, now: float) -> bool:
        entry = self._known(request, now)
        return entry is not None and entry.count >= OUT

    def forgive(self, request: bytes) -> bool:
        """It ended well. Whether there was anything to forgive."""
        return self.entries.pop(request, None) is not None

    def _known(self, request: bytes, now: float) -> _Entry | None:
        entry = self.entries.get(request)
        # A clock that was set back must not keep an entry for ever.
        return entry if entry is not None and abs(now - entry.last) < MEMORY_SECONDS else None

    @classmethod
    def load(cls, path: Path) -> "Strikes":
        """What the file says; nothing, with a log line, if it cannot be read as one of ours."""
        try:
            with path.open("rb") as file:
                saved = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=_File)
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            _log.warning("the memory of crashes cannot be read and begins anew", extra={"file": str(path)})
            return cls()
        return cls({bytes.fromhex(name): entry for name, entry in saved.requests.items()})

    def save(self, path: Path) -> None:
        """Whole or not at all. A disk that takes no file is told in the log and no more."""
        saved = _File(1, {request.hex(): entry for request, entry in self.entries.items()})
        new = path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(saved))
            os.replace(new, path)
        except OSError as error:
            _log.warning("the memory of crashes cannot be written: %s", error.strerror, extra={"file": str(path)})
