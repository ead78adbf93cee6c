"""A model's directory on disk: its manifest, its checks, its lock. Knows nothing of the network.

The manifest is written last and names every file with the hash it was checked against.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ryzanstein_worker.sources import HubModel, Listing, RemoteFile, UnavailableError

MANIFEST = ".ryzanstein-model.json"
PARTIAL = ".partial"
LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)

_log = logging.getLogger(__name__)


class StoredFile(msgspec.Struct, frozen=True):
    """A file as it was when its hash was checked. `digest` is the hub's: SHA-256, or git's blob SHA-1."""

    name: str
    size: int
    mtime_ns: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """The marker of a whole directory."""

    repo: str
    revision: str
    commit: str
    files: tuple[StoredFile, ...]


@contextlib.contextmanager
def exclusive(output: Path, timeout_seconds: float) -> Iterator[Path]:
    """Hold the directory for this process; yields where to put what is not whole yet.

    The kernel frees the lock when its holder dies. On a file system without locks each process works in a folder
    of its own; the moves at the end are atomic and all put the same bytes.
    """
    with (output / LOCK).open("wb") as lock:
        deadline = time.monotonic() + timeout_seconds
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"Another fetch has held {output} for too long.") from None
                if not told:
                    told = True
                    _log.info("waiting for another fetch into the same directory")
                time.sleep(0.2)  # flock has no time limit of its own
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                yield output / f"{PARTIAL}-{os.uname().nodename}-{os.getpid()}"
                return
        yield output / PARTIAL


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` has the size and the hash that the hub lists."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        if file.sha256 is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
        blob = hashlib.sha1(b"blob %d\0" % file.size + stream.read(), usedforsecurity=False)
        return blob.hexdigest() == file.git_sha1


def partial_path(partial: Path, file: RemoteFile) -> Path:
    """Where a file grows. The hash is in the name: the beginning of another version is not taken for its own."""
    return partial / f"{_digest(file)}-{file.name}"


def _digest(file: RemoteFile) -> str:
    return file.sha256 or file.git_sha1 or ""


def untouched(output: Path, stored: StoredFile) -> bool:
    """Whether nobody wrote to the file since its hash was checked."""
    path = output / stored.name
    if not path.is_file():
        return False
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (stored.size, stored.mtime_ns)


def is_stored(output: Path, file: RemoteFile, stored: StoredFile | None) -> bool:
    """Whether the file is here already: by its manifest entry if nobody touched it since, else by its hash."""
    if stored is not None and untouched(output, stored):
        return stored.digest == _digest(file)
    return matches(output / file.name, file)


def move_in(files: Sequence[RemoteFile], partial: Path, output: Path) -> None:
    """Move checked files to their place, each atomically, config.json last."""
    for file in sorted(files, key=lambda file: file.name == "config.json"):
        with partial_path(partial, file).open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial_path(partial, file), output / file.name)


def read_manifest(output: Path) -> Manifest | None:
    """The manifest; None where the directory is not known to be whole."""
    try:
        return msgspec.json.decode((output / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def remove_manifest(output: Path) -> None:
    """The directory is about to change and no longer known to be whole."""
    (output / MANIFEST).unlink(missing_ok=True)


def write_manifest(output: Path, model: HubModel, listing: Listing) -> None:
    """Mark the directory as whole."""
    files = []
    for file in listing.files:
        status = (output / file.name).stat()
        files.append(StoredFile(file.name, status.st_size, status.st_mtime_ns, _digest(file)))
    manifest = Manifest(model.repo, model.revision, listing.commit, tuple(files))
    temporary = output / f"{MANIFEST}.{os.getpid()}"
    with temporary.open("wb") as stream:
        stream.write(msgspec.json.encode(manifest))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, output / MANIFEST)


def bytes_in(directory: Path) -> int:
    """Bytes of all files below a directory, absent or not."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # files move while we look
            total += path.stat().st_size if path.is_file() else 0
    return total
