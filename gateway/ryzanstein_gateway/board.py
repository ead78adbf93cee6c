"""The traffic of all gateway processes of the pod, known to each of them.

Each process writes what it has into a file of its own, four times a second while it changes; whoever asks adds them up.
The parent takes a dead process' file away.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from ryzanstein_gateway.traffic import Traffic, together

PUBLISH_SECONDS: Final = 0.25

_log = logging.getLogger(__name__)


_DECODER: Final = msgspec.json.Decoder(tuple[Traffic, ...])


class Board:
    """One process' part, and its sight of the others'. `own`: what this process has now; `directory` is shared by all,
    None where there is but one."""

    def __init__(self, own: Callable[[], Iterable[Traffic]], directory: Path | None = None, slot: int = 0) -> None:
        self._own, self._directory, self._slot = own, directory, slot
        self._read: dict[str, tuple[tuple[int, int], tuple[Traffic, ...]]] = {}
        """By file: what tells its versions apart, and what it says."""

    async def run(self) -> None:
        """Publish, for ever; at once an end where nobody shares."""
        if self._directory is None:
            return
        said = b""
        while True:
            text = msgspec.json.encode(tuple(self._own()))
            if text != said:
                try:
                    _write(_file(self._directory, self._slot), text)
                    said = text
                except OSError as error:  # no request's business; the others go by what was said before
                    _log.warning("the other processes cannot be told what goes on here: %s", error.strerror)
            await asyncio.sleep(PUBLISH_SECONDS)

    def all(self) -> Mapping[tuple[str, str], Traffic]:
        """Every service for which there is or was a request: of this process as it is now, of the others at most
        PUBLISH_SECONDS old."""
        parts = list(self._own())
        for others in self._others():
            parts += others
        return together(parts)

    def _others(self) -> list[tuple[Traffic, ...]]:
        if self._directory is None:
            return []
        own, before = _file(self._directory, self._slot).name, self._read
        self._read = {}
        for path in self._directory.glob("traffic-*.json"):
            if path.name == own:
                continue
            try:
                stat = path.stat()
                version = (stat.st_ino, stat.st_mtime_ns)
                known = before.get(path.name)
                fresh = known is not None and known[0] == version
                self._read[path.name] = known if known and fresh else (version, _DECODER.decode(path.read_bytes()))
            except (OSError, msgspec.MsgspecError):  # its process has just died
                continue
        return [said for _, said in self._read.values()]


def forget(directory: Path, slot: int) -> None:
    """A process has died, and what it had under way with it. For the parent."""
    _file(directory, slot).unlink(missing_ok=True)


def _file(directory: Path, slot: int) -> Path:
    return directory / f"traffic-{slot}.json"


def _write(path: Path, text: bytes) -> None:
    """Whole, or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(text)
    os.replace(part, path)
