"""How a worker starts and ends: errors of the start in a sentence, drains without a loss, a lost rank told at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from journal import ASK, read_journal
from ryzanstein_worker.contract import (
    EXIT_CONFIG,
    EXIT_GROUP_LOST,
    HEADER_JOURNAL,
    HEADER_NOT_STARTED,
    MARK_LOST_CRASH,
    MARK_LOST_DRAIN,
)
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]

PORTS = ("--port", "0", "--health-port", "0", "--grpc-port", "0")
LONG = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True}
ENDLESS = LONG | {"n": 32}
"""With ONE_BY_ONE it takes a minute: it still runs when a test that was held up comes to break it off."""
ONE_BY_ONE = ("--max-num-seqs", "1")


def _events(response: httpx.Response) -> Iterator[str]:
    return (line for line in response.iter_lines() if line)


SLOW_TO_ACCEPT = """
import asyncio, sys, uvicorn
from ryzanstein_worker.__main__ import main
startup = uvicorn.Server.startup
async def late(self, sockets=None):
    await asyncio.sleep(1)
    await startup(self, sockets)
uvicorn.Server.startup = late
sys.exit(main())
"""


def test_a_worker_that_says_it_serves_refuses_no_connection(model_dir: Path) -> None:
    with serve_worker(model_dir, program=("-c", SLOW_TO_ACCEPT)) as worker:
        ready = httpx.get(f"{worker.health}/health/ready", timeout=30)
        answer = httpx.get(f"{worker.api}/v1/models", timeout=30)
    assert (ready.status_code, answer.status_code) == (200, 200)


def test_a_drain_ends_every_running_stream_and_refuses_only_what_was_not_started(model_dir: Path) -> None:
    with (
        serve_worker(model_dir, "--drain-seconds", "20") as worker,  # a grace of five seconds
        httpx.Client(base_url=worker.api, timeout=30) as client,
    ):
        with client.stream("POST", "/v1/completions", json=LONG | {"n": 2, "max_tokens": 120}) as response:
            events = _events(response)
            first = next(events)
            worker.process.send_signal(signal.SIGTERM)
            worker.wait_for_log("draining")
            ready = httpx.get(f"{worker.health}/health/ready", timeout=30)
            assert (ready.status_code, ready.json()["reason"]) == (503, "The worker is draining.")
            assert httpx.get(f"{worker.health}/health/live", timeout=30).status_code == 200
            # Within the grace a request is still served, for whoever routes may not have seen it yet.
            assert httpx.post(f"{worker.api}/v1/completions", json=LONG | {"max_tokens": 1}, timeout=30).is_success
            rest = list(events)
        assert rest[-1] == "data: [DONE]"
        assert "error" not in first + "".join(rest)
        finishes = [choice["finish_reason"] for line in rest[:-1] for choice in json.loads(line[6:])["choices"]]
        assert finishes.count("length") == 2
        refused = _first_refusal(worker)
        if refused is not None:  # the worker may have been quicker to end than we to ask
            assert refused.headers[HEADER_NOT_STARTED] == "draining"
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "draining"
        assert worker.wait(30) == 0


def _first_refusal(worker: WorkerProcess) -> httpx.Response | None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(
                f"{worker.api}/v1/completions", json=LONG | {"max_tokens": 1, "stream": False}, timeout=30
            )
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            return answer
    raise AssertionError("the worker never closed its door")


def test_a_killed_rank_ends_the_stream_with_an_error_and_the_worker_within_two_seconds(model_dir: Path) -> None:
    with (
        serve_worker(model_dir, "--tensor-parallel-size", "2", *ONE_BY_ONE) as worker,
        httpx.Client(base_url=worker.api, timeout=30) as client,
        client.stream("POST", "/v1/completions", json=ENDLESS) as response,
    ):
        events = _events(response)
        next(events)
        ranks = worker.ranks()
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        killed = time.monotonic()
        rest = list(events)
        assert worker.wait(30) == EXIT_GROUP_LOST
        # Two seconds and what a busy machine adds. It was the death that was seen: silence is told after ten.
        assert time.monotonic() - killed < 7.0
        assert rest[-2] == "event: error"
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_lost")
        assert "data: [DONE]" not in rest
        assert any(str(record["message"]).startswith("the engine is lost: ") for record in worker.records)


def test_a_journal_tells_a_lost_engine_from_a_fault_of_the_request(model_dir: Path) -> None:
    with (
        serve_worker(model_dir, *ONE_BY_ONE) as worker,
        httpx.Client(base_url=worker.api, timeout=30) as client,
        client.stream("POST", "/v1/completions", json=ENDLESS, headers=ASK) as response,
    ):
        pieces = response.iter_bytes()
        stream = next(pieces)
        os.kill(worker.ranks()[0], signal.SIGKILL)
        stream += b"".join(pieces)
        assert worker.wait(30) == EXIT_GROUP_LOST
    journal = read_journal(response.headers[HEADER_JOURNAL], stream)
    assert journal.tail == (MARK_LOST_CRASH,)
    assert journal.commits


def test_a_journal_tells_the_end_of_a_drain(model_dir: Path) -> None:
    with (
        serve_worker(model_dir, "--drain-seconds", "0.5", *ONE_BY_ONE) as worker,
        httpx.Client(base_url=worker.api, timeout=30) as client,
        client.stream("POST", "/v1/completions", json=ENDLESS, headers=ASK) as response,
    ):
        pieces = response.iter_bytes()
        stream = next(pieces)
        worker.process.send_signal(signal.SIGTERM)
        stream += b"".join(pieces)
        assert worker.wait(30) == 0
    journal = read_journal(response.headers[HEADER_JOURNAL], stream)
    assert journal.tail == (MARK_LOST_DRAIN,)
    assert len(journal.commits) < 32 * 500


def _serve(directory: Path, tmp_path: Path, *flags: str) -> tuple[int, str]:
    """Exit code and termination log of a start that must fail."""
    log = tmp_path / "termination-log"
    command = [sys.executable, "-m", "ryzanstein_worker", "serve", "--model", str(directory), *flags]
    env = os.environ | {"RYZANSTEIN_TERMINATION_LOG": str(log)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=45)
    assert "Traceback" not in ended.stderr
    return ended.returncode, log.read_text()


def test_a_port_in_use_is_told_before_the_model_loads(model_dir: Path, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        expected = (EXIT_CONFIG, f"Cannot listen on 127.0.0.1 port {port}: Address already in use.")
        assert _serve(model_dir, tmp_path, *PORTS, "--port", port) == expected
        expected = (EXIT_CONFIG, f"Cannot listen for gRPC on 127.0.0.1 port {port}: Address already in use.")
        assert _serve(model_dir, tmp_path, *PORTS, "--grpc-port", port) == expected


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing in the model directory."),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON."),
    ],
)
def test_broken_tokenizer_files_are_told_in_a_sentence(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    directory = write_tiny_model(tmp_path / "model")
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(content)
    assert _serve(directory, tmp_path, *PORTS) == (EXIT_CONFIG, sentence)
