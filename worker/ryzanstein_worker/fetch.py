"""`fetch`: a model from a hub into a directory, whole and checked, or not at all.

Files arrive in OUTPUT/.partial, are checked against the hub's hashes there, and then move into OUTPUT, config.json
last; the manifest that is written after it says that all is there. So a directory without a manifest is not whole,
and one without config.json is refused by `serve`. The hub is `sources`, the directory is `store`.
"""

import argparse
import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from ryzanstein_worker.contract import ENV_HUB_ENDPOINT, ENV_HUB_TOKEN, EXIT_UNAVAILABLE
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.sources import Hub, HubModel, Listing, RemoteFile, UnavailableError, parse_uri
from ryzanstein_worker.store import (
    bytes_in,
    exclusive,
    is_stored,
    matches,
    move_in,
    partial_path,
    read_manifest,
    remove_manifest,
    untouched,
    write_manifest,
)
from ryzanstein_worker.telemetry.termination import write_termination_log

PARALLEL_FILES = 4
PROGRESS_SECONDS = 5.0
SPARE_BYTES = 64 << 20

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code. Raises ConfigError where only the user can mend it."""
    parser = _Parser(prog="python -m ryzanstein_worker fetch", allow_abbrev=False)
    parser.add_argument("--uri", required=True, help="hf://organisation/name[@revision]")
    parser.add_argument("--revision", help="branch, tag or commit (default: main)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--lock-timeout-seconds",
        type=float,
        default=7200.0,
        metavar="S",
        help="how long to wait for another fetch into the same directory (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    for library in ("huggingface_hub", "httpx", "httpx2"):  # their warnings hold addresses with signatures in them
        logging.getLogger(library).setLevel(logging.ERROR)
    model = parse_uri(options.uri, options.revision)
    try:
        hub = Hub(os.environ.get(ENV_HUB_ENDPOINT), os.environ.get(ENV_HUB_TOKEN))
        fetch(hub, model, options.output, options.lock_timeout_seconds)
    except UnavailableError as error:
        _log.error(str(error))
        write_termination_log(str(error))
        return EXIT_UNAVAILABLE
    return 0


def fetch(hub: Hub, model: HubModel, output: Path, lock_timeout_seconds: float = 7200.0) -> None:
    """Make `output` hold the model, whole. Safe beside others that do the same.

    Raises:
        ConfigError: no such model, no access, no space, no permission to write.
        UnavailableError: the hub is not to be reached, or sends bytes that do not match its own hashes.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with exclusive(output, lock_timeout_seconds) as partial:
            _fetch(hub, model, output, partial)
    except OSError as error:
        raise ConfigError(f"Cannot write to {output}: {error.strerror or type(error).__name__}.") from None


def _fetch(hub: Hub, model: HubModel, output: Path, partial: Path) -> None:
    manifest = read_manifest(output)
    try:
        listing = hub.listing(model)
    except UnavailableError:
        if manifest is None or (manifest.repo, manifest.revision) != (model.repo, model.revision):
            raise
        if not all(untouched(output, file) for file in manifest.files):
            raise
        _log.warning("the hub cannot be reached; keeping what was fetched before", extra={"commit": manifest.commit})
        return
    stored = {file.name: file for file in manifest.files} if manifest is not None else {}
    missing = [file for file in listing.files if not is_stored(output, file, stored.get(file.name))]
    if not missing and manifest is not None and manifest.commit == listing.commit:
        _log.info("the model is here already", extra={"repo": model.repo, "commit": listing.commit})
        return
    # From here on the directory is not whole.
    remove_manifest(output)
    _check_space(output, partial, missing)
    with _progress(partial, listing, missing):
        _download(hub, model, listing.commit, missing, partial)
    move_in(missing, partial, output)
    write_manifest(output, model, listing)
    shutil.rmtree(partial, ignore_errors=True)
    _log.info("fetched", extra={"repo": model.repo, "commit": listing.commit, "bytes": listing.size})


def _download(hub: Hub, model: HubModel, commit: str, files: Sequence[RemoteFile], partial: Path) -> None:
    def one(file: RemoteFile) -> None:
        for _ in range(2):  # what was resumed onto a damaged beginning is fetched anew, once
            path = partial_path(partial, file)
            hub.download(model, commit, file, path)
            if matches(path, file):
                return
            _log.warning("a file does not match its hash", extra={"file": file.name})
            path.unlink()
        raise UnavailableError(f"{file.name} of {model.repo} arrives damaged: it does not match the hub's hash.")

    partial.mkdir(exist_ok=True)
    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="fetch") as pool:
        tasks = [pool.submit(one, file) for file in files]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_space(output: Path, partial: Path, missing: Sequence[RemoteFile]) -> None:
    needed = sum(file.size for file in missing) - bytes_in(partial) + SPARE_BYTES
    free = shutil.disk_usage(output).free
    if missing and needed > free:
        raise ConfigError(f"{output} has {_gigabytes(free)} free, but {_gigabytes(needed)} are needed for the model.")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


@contextlib.contextmanager
def _progress(partial: Path, listing: Listing, missing: Sequence[RemoteFile]) -> Iterator[None]:
    """Logs how far the download is, every few seconds, from a thread of its own."""
    done = threading.Event()
    here = listing.size - sum(file.size for file in missing)

    def tell() -> None:
        bytes_here = min(listing.size, here + bytes_in(partial))
        percent = 100 * bytes_here // max(1, listing.size)
        _log.info("fetching: %d %% of %s", percent, _gigabytes(listing.size), extra={"bytes": bytes_here})

    def loop() -> None:
        while not done.wait(PROGRESS_SECONDS):
            tell()

    tell()
    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see `{self.prog} --help`).")
