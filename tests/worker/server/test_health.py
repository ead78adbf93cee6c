"""Probes: true while the event loop is blocked, and on both ports."""

import asyncio
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError

import httpx
import pytest

from processes import until
from ryzanstein_worker.engine.status import EngineHealth, EngineLoad, RankHealth
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.server import health
from ryzanstein_worker.server.health import Capacity, HealthServer, Phase, Probes, page
from ryzanstein_worker.telemetry.exposition import Exposition
from worker_process import MODEL_NAME, WorkerProcess


def _rank(number: int, age: float) -> RankHealth:
    return RankHealth(rank=number, state="step", age_seconds=age, beats=3)


class Engine:
    """An engine's health as shared memory would show it."""

    def __init__(self, alive: bool = True) -> None:
        self.alive = alive
        self.epoch = "e1"

    def load(self) -> EngineLoad:
        return EngineLoad(running=3, waiting=2, kv_cache_usage=0.25)

    def health(self) -> EngineHealth:
        reason = "every rank gives signs of life" if self.alive else "rank 1 gave no sign of life for 12.0 s"
        return EngineHealth(self.alive, reason, (_rank(0, 0.1), _rank(1, 0.3)))


@pytest.mark.parametrize(
    ("phase", "alive", "live", "ready", "reason"),
    [
        ("loading", None, True, False, "The model is loading."),
        ("serving", True, True, True, "every rank gives signs of life"),
        ("draining", True, True, False, "The worker is draining."),
        ("serving", False, False, False, "rank 1 gave no sign of life"),
        ("draining", False, False, False, "rank 1 gave no sign of life"),
    ],
)
def test_live_and_ready_by_phase(phase: Phase, alive: bool | None, live: bool, ready: bool, reason: str) -> None:
    probes = Probes()
    probes.phase = phase
    probes.engine = None if alive is None else Engine(alive)
    assert (probes.live().good, probes.ready().good) == (live, ready)
    assert reason in probes.ready().body.decode()


def _status(probes: Probes) -> dict[str, object]:
    answer = page("/health/status", probes, lambda accept: Exposition("", b""))
    assert answer is not None
    assert (answer.status, answer.content_type) == (200, "application/json")
    status: dict[str, object] = json.loads(answer.body)
    return status


def test_the_status_tells_all_at_once_and_is_200_whatever_it_tells() -> None:
    probes = Probes(Capacity(max_num_seqs=16, max_queued_requests=64))
    known: dict[str, object] = {"max_num_seqs": 16, "max_queued_requests": 64, "nnodes": 1, "accelerator_fault": ""}
    idle = known | {"ranks": [], "epoch": "", "beat_age": 0.0, "running": 0, "waiting": 0, "kv_cache_usage": 0.0}
    assert _status(probes) == idle | {"phase": "loading", "ready": False, "reason": "The model is loading."}
    ranks = [
        {"rank": 0, "node_rank": 0, "state": "step", "age_seconds": 0.1},
        {"rank": 1, "node_rank": 0, "state": "step", "age_seconds": 0.3},
    ]
    busy = known | {"ranks": ranks, "epoch": "e1", "beat_age": 0.3, "running": 3, "waiting": 2, "kv_cache_usage": 0.25}
    probes.phase, probes.engine = "serving", Engine()
    assert _status(probes) == busy | {"phase": "serving", "ready": True, "reason": "every rank gives signs of life"}
    probes.phase = "draining"
    assert _status(probes) == busy | {"phase": "draining", "ready": False, "reason": "The worker is draining."}
    probes.phase, probes.engine = "serving", Engine(alive=False)
    reason = "rank 1 gave no sign of life for 12.0 s"
    assert _status(probes) == busy | {"phase": "serving", "ready": False, "reason": reason}


@pytest.mark.parametrize("engine", [None, Engine(), Engine(alive=False)])
def test_a_worker_on_a_broken_accelerator_is_not_ready_and_is_not_restarted_where_it_is(engine: Engine | None) -> None:
    fault = ""
    probes = Probes(accelerator_fault=lambda: fault)
    probes.engine, probes.phase = engine, "loading" if engine is None else "serving"
    fault = "GPU 0: it has fallen off the bus (XID 79)."
    assert (probes.live().good, probes.ready().good) == (True, False)
    status = _status(probes)
    assert (status["ready"], status["reason"], status["accelerator_fault"]) == (False, fault, fault)


async def test_a_server_that_stands_still_is_told_however_well_the_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = Probes()
    probes.engine, probes.phase = Engine(), "serving"
    following = asyncio.create_task(probes.follow_loop())
    await asyncio.sleep(0)
    assert (probes.live().good, probes.ready().good) == (True, True)
    time.sleep(1.0)  # noqa: ASYNC251 - the point: the loop stands still
    assert probes.status().beat_age >= 1.0
    assert probes.live().good, "a busy moment is no death"
    monkeypatch.setattr(health, "LOOP_SECONDS", 0.9)
    assert (probes.live().good, probes.ready().good) == (False, False)
    assert "event loop has stood still" in probes.status().reason
    await until(lambda: probes.live().good and probes.ready().good, 30, "the loop's next turn is noted")
    following.cancel()


async def test_the_status_shows_what_the_engine_does(worker: WorkerProcess) -> None:
    seen: list[dict[str, Any]] = []
    # So many tokens that 16 fit the blocks to their end: none has to wait again.
    body = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 230, "ignore_eos": True, "n": 24}
    async with httpx.AsyncClient(timeout=30) as client, asyncio.timeout(40):

        async def ask() -> None:
            while True:  # until it was seen: a test that was held up comes too late for the first
                (await client.post(f"{worker.api}/v1/completions", json=body)).raise_for_status()

        async def shows(**wanted: float) -> None:
            while not seen or any(seen[-1][name] != value for name, value in wanted.items()):
                seen.append((await client.get(f"{worker.health}/health/status")).json())

        asked = asyncio.create_task(ask())
        await shows(running=16, waiting=8)  # no more than 16 run at once, and the others are told of as well
        assert seen[-1]["kv_cache_usage"] >= 16 / 256
        asked.cancel()
        await shows(running=0, waiting=0, kv_cache_usage=0.0)
    assert {one["running"] + one["waiting"] for one in seen} <= set(range(25))
    assert len({one["epoch"] for one in seen}) == 1
    assert (seen[-1]["max_num_seqs"], seen[-1]["max_queued_requests"]) == (16, 1024)


async def test_probes_answer_while_the_event_loop_is_blocked() -> None:
    probes = Probes()
    probes.engine, probes.phase = Engine(), "serving"
    server = HealthServer("127.0.0.1", 0, probes, lambda accept: Exposition("text/plain", b"metric 1\n"))
    try:

        def ask() -> list[int]:
            answers = []
            for path in ("/health/live", "/health/ready", "/health/status", "/metrics"):
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as response:
                    answers.append(response.status)
            return answers

        with ThreadPoolExecutor(1) as pool:
            # The point: this wait blocks the loop until the answers are there, so nothing else runs on it meanwhile.
            assert pool.submit(ask).result(30) == [200, 200, 200, 200]
    finally:
        server.close()


def test_a_page_that_fails_costs_only_itself() -> None:
    def broken() -> bytes:
        raise RuntimeError("secret")

    server = HealthServer("127.0.0.1", 0, Probes(), broken)
    try:
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=20)
        with caught.value as error:
            assert (error.code, error.read()) == (500, b"failed\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health/live", timeout=20) as response:
            assert response.status == 200
        with pytest.raises(ConfigError, match="Address already in use"):
            HealthServer("127.0.0.1", server.port, Probes(), broken)
    finally:
        server.close()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_both_ports_have_the_same_pages(worker: WorkerProcess, path: str) -> None:
    answers = [httpx.get(base + path, timeout=30) for base in (worker.health, worker.api)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["content-type"] == answers[1].headers["content-type"]


def test_the_health_port_has_nothing_else(worker: WorkerProcess) -> None:
    assert httpx.get(f"{worker.health}/v1/models", timeout=30).status_code == 404
    assert httpx.get(f"{worker.health}/health/../etc/passwd", timeout=30).status_code == 404
