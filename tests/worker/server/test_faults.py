"""FAULTS.md's cases 4 and 7 against a whole worker: what is frozen is told, what is merely busy is left alone."""

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal import ASK, read_journal
from processes import started_at, wait_until
from ryzanstein_worker.contract import EXIT_GROUP_LOST, HEADER_JOURNAL, MARK_LOST_CRASH
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(240)]

LIVE_SECONDS = 15.0
"""Within which a probe must tell of a frozen engine, at the default settings."""
LONG = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True, "n": 32}
"""One by one it takes a minute: it still runs when a test that was held up comes to freeze a rank."""
LONG_PROMPT = [n % 300 for n in range(1900)]


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its prefill takes long, but no layer does: so many layers."""
    return write_tiny_model(
        tmp_path_factory.mktemp("deep"),
        num_layers=128,
        hidden_size=64,
        intermediate_size=256,
        max_position_embeddings=2048,
    )


def _status(worker: WorkerProcess) -> dict[str, Any]:
    status: dict[str, Any] = httpx.get(f"{worker.health}/health/status", timeout=20).json()
    return status


def _is_live(worker: WorkerProcess) -> bool:
    try:
        return httpx.get(f"{worker.health}/health/live", timeout=20).status_code == 200
    except httpx.TransportError:
        return False


def _ask(worker: WorkerProcess, fields: dict[str, Any]) -> httpx.Response:
    body = {"model": MODEL_NAME, "ignore_eos": True} | fields
    return httpx.post(f"{worker.api}/v1/completions", json=body, timeout=100)


@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), (2, 0), (2, 1)])
def test_a_frozen_engine_is_told_while_the_http_process_lives(model_dir: Path, ranks: int, victim: int) -> None:
    with (
        serve_worker(model_dir, "--tensor-parallel-size", str(ranks), "--max-num-seqs", "1") as worker,
        httpx.Client(base_url=worker.api, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=LONG, headers=ASK) as response,
    ):
        pieces = response.iter_bytes()
        stream = next(pieces)
        pids = worker.ranks()
        assert len(pids) == ranks
        epoch = _status(worker)["epoch"]
        os.kill(pids[victim], signal.SIGSTOP)
        start = time.monotonic()
        # The gateway can know long before the probe does: the status shows how old the latest sign is.
        wait_until(lambda: _status(worker)["beat_age"] > 3.0, 8.0, "the age of the heartbeat grows")
        assert _status(worker)["epoch"] == epoch
        wait_until(lambda: not _is_live(worker), LIVE_SECONDS, "the probe tells of it")
        assert time.monotonic() - start < LIVE_SECONDS
        stream += b"".join(pieces)
        assert worker.wait(30) == EXIT_GROUP_LOST
    # Nobody waits for ever: the stream says that another replica can go on.
    assert read_journal(response.headers[HEADER_JOURNAL], stream).tail == (MARK_LOST_CRASH,)


@contextmanager
def _watched(worker: WorkerProcess) -> Iterator[list[tuple[bool, dict[str, Any]]]]:
    """What both pages say all the while."""
    seen: list[tuple[bool, dict[str, Any]]] = []
    done = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=worker.health, timeout=20) as client:
            while not done.wait(0.1):
                live = client.get("/health/live").status_code == 200
                seen.append((live, client.get("/health/status").json()))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            done.set()
            watching.result(30)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_saturated_engine_in_long_prefills_is_never_called_dead(deep_model: Path, ranks: int) -> None:
    hang = 3.0  # much longer than a layer, also where a rank gets no core for two seconds; shorter than a prefill
    flags = ("--tensor-parallel-size", str(ranks), "--hang-timeout-seconds", str(hang), "--max-num-seqs", "2")
    fresh = itertools.count()  # no prompt is in the prefix cache

    with serve_worker(deep_model, *flags, "--max-num-batched-tokens", "4000", "--num-kv-blocks", "256") as worker:
        processes = [(pid, started_at(pid)) for pid in worker.ranks()]
        enough = time.monotonic() + 3 * hang

        def ask(_: int) -> set[int]:
            codes: set[int] = set()
            while not codes or time.monotonic() < enough:
                codes.add(_ask(worker, {"prompt": [next(fresh) % 300, *LONG_PROMPT], "max_tokens": 2}).status_code)
            return codes

        with _watched(worker) as seen, ThreadPoolExecutor(3) as pool:
            assert list(pool.map(ask, range(3))) == [{200}] * 3
        assert len(seen) > 10
        assert all(live for live, _ in seen)
        assert len({status["epoch"] for _, status in seen}) == 1
        assert max(status["waiting"] for _, status in seen) >= 1, "it was not saturated"
        assert max(status["beat_age"] for _, status in seen) < hang
        assert [(pid, started_at(pid)) for pid in worker.ranks()] == processes


async def test_a_client_that_leaves_in_prefill_is_gone_at_the_next_step(tmp_path: Path) -> None:
    # Steps of 16 tokens, the prompt takes 178: many seconds, so that nobody comes too late to leave in the midst.
    # Gone within a second on an idle machine; here others may use the cores.
    model = write_tiny_model(tmp_path, num_layers=64, hidden_size=64, max_position_embeddings=4096)
    flags = ("--max-num-seqs", "16", "--max-num-batched-tokens", "16", "--num-kv-blocks", "256")
    with serve_worker(model, *flags) as worker:
        for first, stream in enumerate((True, False)):  # another first token: nothing of it is in the prefix cache
            prompt = [first + 5, *(LONG_PROMPT * 2)[:2849]]
            body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": 900, "stream": stream}
            async with httpx.AsyncClient(timeout=60) as client:
                asked = asyncio.create_task(client.post(f"{worker.api}/v1/completions", json=body))
                while (await asyncio.to_thread(_status, worker))["running"] == 0:
                    await asyncio.sleep(0.01)
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
            left = time.monotonic()
            while (status := await asyncio.to_thread(_status, worker))["running"] or status["kv_cache_usage"]:
                assert time.monotonic() - left < 5.0, status
                await asyncio.sleep(0.01)
            text = (await asyncio.to_thread(httpx.get, f"{worker.health}/metrics", timeout=20)).text
            assert f'ryzanstein_generation_tokens_total{{model_name="{MODEL_NAME}"}} 0.0' in text, "not in prefill"
