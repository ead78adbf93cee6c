"""A model on a Hugging Face hub: its name, what of it serving needs, and what went wrong in words.

Knows the hub's addresses, listing and errors through huggingface_hub, whose own download cannot go on where an
earlier process broke off. What a whole model on disk is, `store` knows.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ryzanstein_worker.contract import ENV_HUB_ENDPOINT
from ryzanstein_worker.errors import ConfigError

DEFAULT_ENDPOINT = "https://huggingface.co"
REQUEST_TIMEOUT_SECONDS = 30.0  # without a byte
TRIES = 5  # in a row without a byte
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,199}", re.ASCII)
_SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    }
)


class UnavailableError(Exception):
    """The hub cannot be reached or fails just now; another try may help. Carries one sentence for the user."""


@dataclass(frozen=True)
class HubModel:
    """What to fetch."""

    repo: str
    revision: str


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub lists it. Large files carry the SHA-256 of their bytes, small ones git's blob SHA-1."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Listing:
    """The files of one commit that serving needs."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def parse_uri(uri: str, revision: str | None) -> HubModel:
    """The model that `hf://org/name[@revision]` names. Raises ConfigError."""
    scheme, separator, rest = uri.partition("://")
    repo, at, in_uri = rest.partition("@")
    if scheme != "hf" or not separator or not _REPO.fullmatch(repo):
        raise ConfigError(f"{uri!r} is not of the form hf://organisation/name.")
    if at and revision not in (None, in_uri):
        raise ConfigError(f"{uri!r} names a revision and --revision names another.")
    chosen = in_uri if at else revision or "main"
    if not _REVISION.fullmatch(chosen) or ".." in chosen:
        raise ConfigError(f"{chosen!r} is not the name of a revision.")
    return HubModel(repo, chosen)


class Hub:
    """One hub, through huggingface_hub's client, held to HTTPS.

    Raises:
        ConfigError: the endpoint is no HTTP address.
    """

    def __init__(self, endpoint: str | None, token: str | None) -> None:
        self.endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{ENV_HUB_ENDPOINT} must be an http or https address.")
        self._origin = (parts.scheme, parts.netloc)
        # False, unlike None, keeps the client from looking for a token in the home directory.
        self._token: str | bool = token or False
        _import_hub(self._check_address)

    def listing(self, model: HubModel) -> Listing:
        """The files to fetch, of the commit that the revision names now. Raises ConfigError, UnavailableError."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=self.endpoint, token=self._token).model_info(
                model.repo, revision=model.revision, files_metadata=True, timeout=REQUEST_TIMEOUT_SECONDS
            )
        except Exception as error:
            raise in_words(error, model) from None
        if info.sha is None:
            raise UnavailableError(f"The hub's answer about {model.repo} names no commit.")
        files = tuple(filter(None, map(_remote_file, info.siblings or [])))
        return Listing(info.sha, _needed(files, model))

    def download(self, model: HubModel, commit: str, file: RemoteFile, path: Path) -> None:
        """Bring one file to `path`, going on where an earlier try or process broke off. Not checked here.

        Raises as `listing` does; what arrived until then stays for the next try.
        """
        failures = 0
        while (start := path.stat().st_size if path.exists() else 0) < file.size or not path.exists():
            try:
                self._receive(model, commit, file, path, start)
            except Exception as error:
                words = in_words(error, model)
                failures = 0 if path.exists() and path.stat().st_size > start else failures + 1
                if not isinstance(words, UnavailableError) or failures == TRIES:
                    raise words from None
                time.sleep(min(2.0**failures, 30.0) / 2)  # a hub in trouble is not helped by haste

    def _receive(self, model: HubModel, commit: str, file: RemoteFile, path: Path, start: int) -> None:
        from huggingface_hub import get_session, hf_hub_url

        url = hf_hub_url(model.repo, file.name, revision=commit, endpoint=self.endpoint)
        headers = {"accept-encoding": "identity"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        if start:
            headers["range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS) as response:
            if response.status_code not in (200, 206):
                raise _status_in_words(response.status_code, model)
            # 200 to a range means: from the beginning after all.
            with path.open("ab" if response.status_code == 206 else "wb", buffering=0) as stream:
                for chunk in response.iter_bytes():
                    stream.write(chunk)
                    if stream.tell() > file.size:
                        raise UnavailableError(f"The hub sends more of {file.name} than it lists.")

    def _check_address(self, request: Any) -> None:
        """Called before each request, redirected ones too: HTTPS, or the endpoint that was configured."""
        url = urlsplit(str(request.url))
        if (url.scheme, url.netloc) == self._origin:
            return
        if url.scheme != "https":
            raise ConfigError("The hub redirects to an address without HTTPS; refused.")
        request.headers.pop("authorization", None)  # the token is the hub's, not its storage's


def _import_hub(check_address: Any) -> None:
    """huggingface_hub reads its settings when it is first imported, so they are made before."""
    os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    from huggingface_hub import close_session, get_session

    close_session()  # the client is the process': a new Hub starts with a new one
    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "request": [*hooks.get("request", []), check_address]}


def _remote_file(sibling: Any) -> RemoteFile | None:
    name = sibling.rfilename
    if not _PLAIN_NAME.fullmatch(name):  # in a folder, or a name that is none
        return None
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return RemoteFile(name, sibling.size or 0, sha256, None if sha256 else sibling.blob_id)


def _needed(files: tuple[RemoteFile, ...], model: HubModel) -> tuple[RemoteFile, ...]:
    """Weights as safetensors, configuration, tokenizer. Never pickles or code, whatever else the repository has."""
    weights = [file for file in files if file.name.endswith(".safetensors")]
    # Some repositories hold the same weights twice, the second time in their authors' own layout.
    weights = [file for file in weights if file.name.startswith("model")] or weights
    if not weights:
        raise ConfigError(f"{model.repo} has no weights as safetensors; other formats can run code and are not loaded.")
    small = [file for file in files if file.name in _SMALL_FILES]
    if not any(file.name == "config.json" for file in small):
        raise ConfigError(f"{model.repo} has no config.json.")
    for file in (*weights, *small):
        if file.sha256 is None and file.git_sha1 is None:
            raise UnavailableError(f"The hub lists {file.name} of {model.repo} without a hash.")
    return tuple(sorted((*weights, *small), key=lambda file: -file.size))


def in_words(error: Exception, model: HubModel) -> ConfigError | UnavailableError | OSError:
    """What an error of the hub's client means to the user. Its own text may hold signed addresses: not repeated."""
    from huggingface_hub import errors

    if isinstance(error, ConfigError | UnavailableError):
        return error
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{model.repo} has no revision {model.revision!r}.")
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(f"{model.repo} is gated: its licence must be accepted for the account of the token.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(f"{model.repo} does not exist on the hub, or the token does not give access to it.")
    if isinstance(error, errors.HfHubHTTPError):
        return _status_in_words(error.response.status_code, model)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return error  # the disk's, told by the caller
    return UnavailableError(f"The hub could not be reached for {model.repo} ({type(error).__name__}).")


def _status_in_words(status: int, model: HubModel) -> ConfigError | UnavailableError:
    if status == 401:
        return ConfigError(f"The hub does not accept the token for {model.repo}.")
    if status == 403:
        return ConfigError(f"The token does not give access to {model.repo}.")
    if status in (404, 410):
        return ConfigError(f"{model.repo} does not exist on the hub.")
    return UnavailableError(f"The hub answered {status} for {model.repo}.")
