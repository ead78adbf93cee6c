"""A request that is there when the engine crashes twice is refused; one that was there by chance is not."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from processes import wait_until
from ryzanstein_worker.config import default_state_dir
from ryzanstein_worker.contract import EXIT_GROUP_LOST, HEADER_LOST
from ryzanstein_worker.server.errors import ApiError, engine_lost
from ryzanstein_worker.server.in_flight import SLOTS, InFlight
from ryzanstein_worker.server.quarantine import PROGRESS_TOKENS, Quarantine, fingerprint
from ryzanstein_worker.server.strikes import MAX_REQUESTS, MEMORY_SECONDS, Strikes
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

BAD, OTHER = fingerprint(b"bad"), fingerprint(b"other")


class Worker:
    """Starts that follow one another over one directory, on a clock of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1e9

    @contextmanager
    def start(self) -> Iterator[Quarantine]:
        """One life; it ends without a farewell, as a killed process."""
        quarantine = Quarantine(self.directory, "m 8000", now=lambda: self.now)
        yield quarantine
        quarantine._table.close()

    def crash(self, *requests: bytes, tokens: int = 0) -> None:
        with self.start() as quarantine:
            for request in requests:
                with contextlib.suppress(ApiError), quarantine.watch(request) as hold:
                    hold.tokens(tokens)
                    raise engine_lost("crash")

    def refuses(self, request: bytes) -> bool:
        with self.start() as quarantine:
            try:
                quarantine.check(request)
            except ApiError as error:
                return error.status == 422
            return False


@pytest.fixture
def worker_lives(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "state")


def test_two_crashes_and_no_fewer_refuse_a_request(worker_lives: Worker) -> None:
    worker_lives.crash(BAD, OTHER)
    assert not worker_lives.refuses(BAD)
    worker_lives.crash(BAD)
    assert worker_lives.refuses(BAD)
    assert not worker_lives.refuses(OTHER)


def test_a_good_end_between_two_crashes_clears_a_request(worker_lives: Worker) -> None:
    worker_lives.crash(BAD)
    with worker_lives.start() as quarantine, quarantine.watch(BAD):
        pass
    worker_lives.crash(BAD)
    assert not worker_lives.refuses(BAD)


def test_who_had_made_progress_is_not_blamed_again(worker_lives: Worker) -> None:
    worker_lives.crash(BAD, OTHER, tokens=PROGRESS_TOKENS - 1)
    worker_lives.crash(BAD, tokens=PROGRESS_TOKENS)
    assert not worker_lives.refuses(BAD)
    worker_lives.crash(OTHER, tokens=PROGRESS_TOKENS - 1)
    assert worker_lives.refuses(OTHER)


def test_an_hour_later_a_request_gets_another_chance(worker_lives: Worker) -> None:
    worker_lives.crash(BAD)
    worker_lives.crash(BAD)
    assert worker_lives.refuses(BAD)  # counted at the next start
    worker_lives.now += MEMORY_SECONDS - 1
    assert worker_lives.refuses(BAD)
    worker_lives.now += 2
    assert not worker_lives.refuses(BAD)
    worker_lives.crash(BAD)
    assert not worker_lives.refuses(BAD)


@pytest.mark.parametrize("error", [engine_lost("drain"), ApiError(500, "own"), GeneratorExit(), ValueError()])
def test_no_other_end_is_a_crash(worker_lives: Worker, error: BaseException) -> None:
    for _ in range(3):
        with worker_lives.start() as quarantine, pytest.raises(type(error)), quarantine.watch(BAD):
            raise error
    assert not worker_lives.refuses(BAD)


def test_an_orderly_end_blames_nobody(worker_lives: Worker) -> None:
    for _ in range(3):
        quarantine = Quarantine(worker_lives.directory, "m 8000")
        quarantine.watch(BAD).__enter__()
        quarantine.close()
    assert not worker_lives.refuses(BAD)


def test_workers_that_share_a_directory_do_not_mix(worker_lives: Worker, caplog: pytest.LogCaptureFixture) -> None:
    with worker_lives.start() as first, first.watch(BAD):
        # Another of the same name beside it must not take what runs for what a crash left.
        second = Quarantine(worker_lives.directory, "m 8000")
        with second.watch(OTHER):
            second.close()
        assert "another worker uses the file" in caplog.text
        third = Quarantine(worker_lives.directory, "n 8000")
        third.close()
    assert not worker_lives.refuses(BAD)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 2, "requests": {}}', b'{"version": 1, "requests": {"x": {"count": 2, "last": 1}}}',
     b'{"version": 1, "requests": {"' + b"a" * 64 + b'": {"count": -1, "last": 1}}}', b"\xff" * 3_000_000],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_ignored_with_a_line(
    worker_lives: Worker, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    worker_lives.crash(BAD)
    worker_lives.crash(BAD)
    assert worker_lives.refuses(BAD)
    (file,) = worker_lives.directory.glob("*.strikes.json")
    file.write_bytes(content)
    assert not worker_lives.refuses(BAD)
    assert "begins anew" in caplog.text
    worker_lives.crash(BAD)
    worker_lives.crash(BAD)
    assert worker_lives.refuses(BAD)


def test_a_table_of_noise_is_no_crash_of_anybody(worker_lives: Worker) -> None:
    worker_lives.crash(BAD)
    (file,) = worker_lives.directory.glob("*.in-flight")
    file.write_bytes(b"\xff" * 100)
    assert not worker_lives.refuses(BAD)


@pytest.mark.parametrize("kind", ["writable by all", "a link", "a file"])
def test_a_directory_of_others_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    state = tmp_path / "state"
    if kind == "a file":
        state.write_text("")
    elif kind == "a link":
        (tmp_path / "there").mkdir()
        state.symlink_to(tmp_path / "there")
    else:
        state.mkdir()
        state.chmod(0o777)
    quarantine = Quarantine(state, "m")
    with quarantine.watch(BAD):
        quarantine.check(BAD)
    assert "crashes will not be remembered" in caplog.text
    assert not state.is_dir() or not [*state.iterdir()]


def test_a_full_disk_costs_the_memory_and_nothing_else(
    worker_lives: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    worker_lives.crash(BAD)
    worker_lives.crash(BAD)
    assert not worker_lives.refuses(BAD)
    assert "No space left on device" in caplog.text


def test_both_memories_are_bounded() -> None:
    strikes = Strikes()
    for number in range(MAX_REQUESTS + 5):
        strikes.add(fingerprint(b"%d" % number), 0.0, progressed=False)
    assert len(strikes.entries) == MAX_REQUESTS
    assert fingerprint(b"4") not in strikes.entries
    table = InFlight(None)
    slots = [table.take(BAD) for _ in range(SLOTS + 1)]
    assert slots[-1] is None
    assert slots[0] is not None
    table.free(slots[0])
    assert table.take(BAD) == slots[0]


def test_white_space_around_a_body_makes_no_other_request() -> None:
    assert fingerprint(b' {"a": 1}\r\n') == fingerprint(b'{"a": 1}') != fingerprint(b'{"a":1}')


def test_a_worker_without_a_lasting_port_remembers_nothing() -> None:
    assert default_state_dir(0) is None
    assert default_state_dir(8000) is not None


POISON = json.dumps({"model": MODEL_NAME, "prompt": "poison", "max_tokens": 3}).encode()
GOOD = json.dumps({"model": MODEL_NAME, "prompt": "good", "max_tokens": 3}).encode()


def _ask(worker: WorkerProcess, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.post(f"{worker.api}/v1/completions", content=body, headers=headers, timeout=30)


def _crash(worker: WorkerProcess, body: bytes, victim: int) -> None:
    """Kill a process while this request is in the engine and has got nothing yet."""
    (rank,) = worker.ranks()
    os.kill(rank, signal.SIGSTOP)

    def ask() -> None:  # what it raises comes out of the future
        try:
            answer = _ask(worker, body)
            # Sent nowhere yet: the gateway may run it anew elsewhere, and counts it as a crash.
            assert (answer.status_code, answer.headers[HEADER_LOST]) == (503, "crash")
        except httpx.TransportError:
            return

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        status = f"{worker.health}/health/status"
        wait_until(lambda: httpx.get(status, timeout=20).json()["waiting"] == 1, 20.0, "the request is in the engine")
        os.kill(victim, signal.SIGKILL)
        asking.result(30)
    assert worker.wait(30) in (EXIT_GROUP_LOST, -signal.SIGKILL)


@pytest.mark.ranks
@pytest.mark.timeout(120)
def test_a_poison_is_refused_after_two_crashes_however_the_worker_died(model_dir: Path, tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path / "state"))
    with serve_worker(model_dir, *flags) as worker:
        _crash(worker, POISON, worker.ranks()[0])
    with serve_worker(model_dir, *flags) as worker:
        _crash(worker, POISON, worker.process.pid)  # as the kernel ends a container that is out of memory
    with serve_worker(model_dir, *flags) as worker:
        refused = _ask(worker, POISON)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_quarantined")
        assert _ask(worker, GOOD).status_code == 200
        (file,) = (tmp_path / "state").glob("*.strikes.json")
        assert fingerprint(POISON).hex() in file.read_text()


@pytest.mark.ranks
@pytest.mark.timeout(120)
def test_a_request_that_was_served_in_between_is_not_refused(model_dir: Path, tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path / "state"))
    with serve_worker(model_dir, *flags) as worker:
        _crash(worker, GOOD, worker.ranks()[0])
    with serve_worker(model_dir, *flags) as worker:
        assert _ask(worker, GOOD).status_code == 200
        _crash(worker, GOOD, worker.ranks()[0])
    with serve_worker(model_dir, *flags) as worker:
        assert _ask(worker, GOOD).status_code == 200
