"""Who is asking: API keys against the hashes in mounted Secrets.

Knows the folder layout `<key set>/<entry>`, each entry the hex SHA-256 of a key. Never holds a key longer than it
takes to hash it, never logs one. Knows nothing of models or routes.
"""

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from ryzanstein_gateway.errors import INVALID_KEY, Refused

POLL_SECONDS: Final = 1.0
_MAX_ENTRY_BYTES: Final = 4096
_MAX_KEY_BYTES: Final = 1024
_SALT_CONTEXT: Final = b"ryzanstein cache salt v1"
_ID_CONTEXT: Final = b"ryzanstein key id v1"
_HEX: Final = frozenset("0123456789abcdef")

_log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]


class Principal(msgspec.Struct, frozen=True):
    """The owner of a valid key. `key_sets` None: the gateway asks for no key. `cache_salt`, `key_id`: hex, or empty."""

    key_sets: frozenset[str] | None
    cache_salt: str
    key_id: str = ""


ANYONE: Final = Principal(key_sets=None, cache_salt="")


@lru_cache(maxsize=4096)
def cache_salt(digest: str) -> str:
    """A salt for the prefix cache, 64 hex digits, from which neither the key nor its stored hash can be told."""
    return hmac.new(bytes.fromhex(digest), _SALT_CONTEXT, hashlib.sha256).hexdigest()


@lru_cache(maxsize=4096)
def key_id(digest: str) -> str:
    """A name for a key in logs, 12 hex digits, from which neither the key nor its stored hash can be told."""
    return hmac.new(bytes.fromhex(digest), _ID_CONTEXT, hashlib.sha256).hexdigest()[:12]


def bearer_token(headers: Headers) -> bytes:
    """The token of the one Authorization header. Raises Refused where it is missing, doubled or misshapen."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        raise Refused(INVALID_KEY)
    scheme, _, token = values[0].partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not 0 < len(token) <= _MAX_KEY_BYTES:
        raise Refused(INVALID_KEY)
    return token


def authenticate(headers: Headers, digests: Mapping[str, frozenset[str]]) -> Principal:
    """The principal of a request, given each key's hex SHA-256 and its key sets. Raises Refused.

    Compares against every stored hash, in constant time each: neither the answer's time nor an early exit tells
    how near a guess came.
    """
    given = hashlib.sha256(bearer_token(headers)).hexdigest()
    found: str | None = None
    for digest in digests:
        if hmac.compare_digest(given, digest):
            found = digest
    if found is None:
        raise Refused(INVALID_KEY)
    return Principal(key_sets=digests[found], cache_salt=cache_salt(found), key_id=key_id(found))


def read_key_sets(root: Path) -> dict[str, frozenset[str]]:
    """Each key's hex SHA-256 and the sets it is in. A root that is not there holds no key. Raises OSError.

    Names that begin with a dot are the kubelet's own (`..data` and the folder it points to).
    """
    sets: dict[str, set[str]] = {}
    if not root.is_dir():
        return {}
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith(".") or not entry.is_file():
                continue
            digest = _read_entry(entry)
            if digest is None:
                _log.error("key set %s: entry %s is no hex SHA-256; it is left out", folder.name, entry.name)
            else:
                sets.setdefault(digest, set()).add(folder.name)
    return {digest: frozenset(names) for digest, names in sets.items()}


def _read_entry(path: Path) -> str | None:
    with path.open("rb") as file:
        content = file.read(_MAX_ENTRY_BYTES + 1)
    text = content.decode("ascii", "replace").strip().lower()
    return text if len(text) == 64 and _HEX.issuperset(text) else None


def _fingerprint(root: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Changes whenever an entry is added, dropped or replaced, a swap of the kubelet's symlinks included."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(folder, name)
            stat = os.stat(path)
            found.append((path, stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return tuple(found)


class KeyRing:
    """The keys in force, re-read when a file changes. A read that fails keeps the keys of before for one more poll."""

    def __init__(self, root: Path) -> None:
        self.digests: Mapping[str, frozenset[str]] = {}
        self._root = root
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None

    def refresh(self) -> None:
        """Read the folder if it has changed since the last time."""
        try:
            seen = _fingerprint(self._root)
            if seen != self._seen:
                self.digests = read_key_sets(self._root)
                self._seen = seen
                _log.info("%d API keys in force", len(self.digests))
        except OSError as error:  # in the middle of a kubelet's swap
            _log.warning("key sets cannot be read: %s", error.strerror)

    async def watch(self) -> None:
        """Refresh for ever, off the event loop."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.refresh)
