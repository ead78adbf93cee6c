"""Fetching from a hub over real HTTP: whole or not at all, resumed, checked, and told in sentences."""

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from hub import HubServer, serve_hub
from processes import wait_until
from ryzanstein_worker import fetch as fetch_module
from ryzanstein_worker import store
from ryzanstein_worker.contract import EXIT_CONFIG, EXIT_UNAVAILABLE
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.fetch import fetch, main
from ryzanstein_worker.sources import Hub, HubModel, UnavailableError, parse_uri

REPO = "acme/tiny"
WEIGHTS = "model.safetensors"
MODEL = HubModel(REPO, "main")
TOKEN = "hf_secretsecretsecret"
START_SECONDS = 50.0
"""For a process to start and do its work: seconds, and more where others have the cores."""

pytestmark = pytest.mark.timeout(150)


def _content() -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "llama"}',
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"t": "' + b"x" * 5000 + b'"}',
        "tokenizer_config.json": b"{}",
        WEIGHTS: bytes(range(256)) * 20_000,
        "pytorch_model.bin": b"pickle" * 1000,
        "modeling.py": b"print('code')",
        "consolidated.safetensors": b"again" * 1000,
        "README.md": b"# words",
        "original/params.json": b"{}",
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub(HubServer(REPO, _content())) as server:
        yield server


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name not in (store.LOCK, store.MANIFEST)}


def test_brings_what_serving_needs_and_nothing_that_could_run_code(hub: HubServer, tmp_path: Path) -> None:
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
    assert _names(tmp_path) == wanted
    assert all((tmp_path / name).read_bytes() == hub.files[name] for name in wanted)
    manifest = store.read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.commit == hub.commit


def test_a_second_fetch_downloads_nothing(hub: HubServer, tmp_path: Path) -> None:
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    hub.requests.clear()
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert hub.requests == [f"GET /api/models/{REPO}/revision/main"]


def test_a_new_commit_brings_only_what_changed(hub: HubServer, tmp_path: Path) -> None:
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    hub.files["config.json"] = b'{"model_type": "qwen2"}'
    hub.sent.clear()
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert set(hub.sent) == {"config.json"}
    assert (tmp_path / "config.json").read_bytes() == hub.files["config.json"]


def test_a_file_that_was_damaged_on_disk_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    damaged = bytearray(hub.files[WEIGHTS])
    damaged[7] ^= 1
    (tmp_path / WEIGHTS).write_bytes(damaged)
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_cut_transfer_goes_on_where_it_broke_off(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.cut_after[WEIGHTS] = 1_000_000
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.resumed_from[WEIGHTS] == 1_000_000
    assert hub.sent[WEIGHTS] == len(hub.files[WEIGHTS])


def test_a_killed_fetch_leaves_nothing_that_looks_whole_and_the_next_one_resumes(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.faults.hold_after[WEIGHTS] = 3_000_000
    process = _spawn(hub, tmp_path)
    try:
        assert hub.faults.holding.wait(timeout=START_SECONDS)
        partial = tmp_path / store.PARTIAL
        wait_until(lambda: store.bytes_in(partial) >= 3_000_000, START_SECONDS, "what was sent is written")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=START_SECONDS)
    assert not (tmp_path / "config.json").exists()
    assert store.read_manifest(tmp_path) is None
    hub.faults.released.set()
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.resumed_from[WEIGHTS] == 3_000_000


def test_bytes_damaged_on_the_way_once_are_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.corrupt[WEIGHTS] = 1
    hub.faults.corrupt["config.json"] = 1
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert (tmp_path / "config.json").read_bytes() == hub.files["config.json"]


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer_config.json", "tokenizer.json"])
def test_bytes_that_never_match_their_hash_are_not_kept(hub: HubServer, tmp_path: Path, name: str) -> None:
    hub.faults.corrupt[name] = 99
    with pytest.raises(UnavailableError, match=f"{name} of {REPO} arrives damaged"):
        fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert _names(tmp_path) == {store.PARTIAL}
    assert store.read_manifest(tmp_path) is None


class Refusal(NamedTuple):
    repo: str
    revision: str
    token: str | None
    sentence: str


@pytest.mark.parametrize(
    "case",
    [
        Refusal("acme/other", "main", TOKEN, "acme/other does not exist on the hub, or the token does not give access"),
        Refusal(REPO, "v9", TOKEN, "acme/tiny has no revision 'v9'"),
        Refusal(REPO, "main", "hf_wrong", "The hub does not accept the token for acme/tiny"),
        Refusal(REPO, "main", None, "acme/tiny does not exist on the hub, or the token does not give access"),
    ],
)
def test_what_only_the_user_can_mend_is_said_in_a_sentence(hub: HubServer, tmp_path: Path, case: Refusal) -> None:
    hub.token = TOKEN
    with pytest.raises(ConfigError, match=case.sentence):
        fetch(Hub(hub.url, case.token), HubModel(case.repo, case.revision), tmp_path)


def test_a_gated_model_says_so(hub: HubServer, tmp_path: Path) -> None:
    hub.token, hub.gated = TOKEN, True
    with pytest.raises(ConfigError, match="is gated"):
        fetch(Hub(hub.url, TOKEN), MODEL, tmp_path)


def test_the_right_token_opens_and_never_reaches_the_log(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.token = TOKEN
    with caplog.at_level(logging.DEBUG):
        fetch(Hub(hub.url, TOKEN), MODEL, tmp_path)
    assert "fetched" in caplog.text
    assert TOKEN not in caplog.text + "".join(str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (WEIGHTS, "has no weights as safetensors"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_repository_that_cannot_be_served_is_refused(
    hub: HubServer, tmp_path: Path, missing: str, sentence: str
) -> None:
    hub.files = {name: body for name, body in hub.files.items() if name not in (missing, "consolidated.safetensors")}
    with pytest.raises(ConfigError, match=sentence):
        fetch(Hub(hub.url, None), MODEL, tmp_path)


def test_a_redirect_away_from_https_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.redirect_storage_to = "http://storage.example"
    with pytest.raises(ConfigError, match="without HTTPS"):
        fetch(Hub(hub.url, None), MODEL, tmp_path)


def test_a_full_disk_is_told_before_the_download(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"has 0\.00 GB free, but 0\.07 GB are needed"):
        fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert not hub.sent


def test_two_at_once_into_one_directory_download_once(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.hold_after[WEIGHTS] = 1000
    first = _spawn(hub, tmp_path)
    assert hub.faults.holding.wait(timeout=START_SECONDS)
    second = _spawn(hub, tmp_path)
    assert second.stderr is not None
    line = second.stderr.readline()
    assert "waiting for another fetch" in line
    hub.faults.released.set()
    for process in (first, second):
        process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0
    assert hub.sent[WEIGHTS] == len(hub.files[WEIGHTS])
    assert store.read_manifest(tmp_path) is not None


def test_waiting_for_another_fetch_has_an_end(hub: HubServer, tmp_path: Path) -> None:
    with (tmp_path / store.LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="Another fetch has held"):
            fetch(Hub(hub.url, None), MODEL, tmp_path, lock_timeout_seconds=0.0)


def test_a_file_system_without_locks_serves_as_well(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    # Only ours: huggingface_hub locks too, and finds its own way out.
    monkeypatch.setattr(store, "fcntl", SimpleNamespace(flock=no_locks, LOCK_EX=2, LOCK_NB=4))
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert store.read_manifest(tmp_path) is not None


def test_an_unreachable_hub_keeps_what_is_whole_and_unchanged(hub: HubServer, tmp_path: Path) -> None:
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    hub.faults.status = 503
    fetch(Hub(hub.url, None), MODEL, tmp_path)
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(UnavailableError, match="The hub answered 503"):
        fetch(Hub(hub.url, None), MODEL, tmp_path)


def test_progress_is_logged_as_a_percentage(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch_module, "PROGRESS_SECONDS", 0.05)
    hub.faults.hold_after[WEIGHTS] = 3_000_000
    with caplog.at_level(logging.INFO, "ryzanstein_worker"):
        thread = threading.Thread(target=fetch, args=(Hub(hub.url, None), MODEL, tmp_path))
        thread.start()
        wait_until(lambda: "fetching: 58 % of 0.01 GB" in caplog.messages, START_SECONDS, "progress is told")
        hub.faults.released.set()
        thread.join(timeout=START_SECONDS)
        assert not thread.is_alive()
    assert "fetching: 0 % of 0.01 GB" in caplog.messages


def test_the_command_ends_with_codes_that_say_whether_to_try_again(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination"
    monkeypatch.setenv("RYZANSTEIN_TERMINATION_LOG", str(log))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    arguments = ["--uri", f"hf://{REPO}", "--output", str(tmp_path / "model")]
    assert main(arguments) == 0
    hub.files["config.json"] = b"{ }"
    hub.faults.status = 500
    assert main([*arguments, "--revision", hub.commit]) == EXIT_UNAVAILABLE
    assert log.read_text() == f"The hub answered 500 for {REPO}."


def test_an_unreachable_hub_is_worth_another_try_and_a_bad_name_is_not(tmp_path: Path) -> None:
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "ryzanstein_worker", "fetch", "--output", str(tmp_path), "--uri"]
    gone = subprocess.run([*command, "hf://acme/tiny"], env=env, capture_output=True, text=True, timeout=START_SECONDS)
    assert gone.returncode == EXIT_UNAVAILABLE
    assert "The hub could not be reached for acme/tiny" in json.loads(gone.stderr.splitlines()[-1])["message"]
    bad = subprocess.run([*command, "hf://acme"], env=env, capture_output=True, text=True, timeout=START_SECONDS)
    assert bad.returncode == EXIT_CONFIG


@pytest.mark.parametrize(
    ("uri", "revision", "expected"),
    [
        ("hf://acme/tiny", None, HubModel("acme/tiny", "main")),
        ("hf://acme/tiny@v1.0", None, HubModel("acme/tiny", "v1.0")),
        ("hf://acme/tiny", "refs/pr/1", HubModel("acme/tiny", "refs/pr/1")),
        ("hf://acme/tiny@v1", "v1", HubModel("acme/tiny", "v1")),
    ],
)
def test_uris_name_a_repository_and_a_revision(uri: str, revision: str | None, expected: HubModel) -> None:
    assert parse_uri(uri, revision) == expected


@pytest.mark.parametrize(
    ("uri", "revision"),
    [
        ("https://hub/acme/tiny", None),
        ("hf://acme", None),
        ("hf://acme/tiny/more", None),
        ("hf://../tiny", None),
        ("hf://acme/..", None),
        ("hf://acme/tiny", "../x"),
        ("hf://acme/tiny@v1", "v2"),
        ("hf://acme/ti ny", None),
        ("hf://acme/tiny@", None),
        ("hf://acme/tiny?x", None),
    ],
)
def test_other_uris_are_refused(uri: str, revision: str | None) -> None:
    with pytest.raises(ConfigError):
        parse_uri(uri, revision)


@pytest.mark.parametrize("endpoint", ["ftp://hub", "hub", "https://"])
def test_an_endpoint_that_is_no_http_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        Hub(endpoint, None)


def _spawn(hub: HubServer, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ryzanstein_worker", "fetch", "--uri", f"hf://{REPO}", "--output", str(output)]
    env = os.environ | {"HF_ENDPOINT": hub.url}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
