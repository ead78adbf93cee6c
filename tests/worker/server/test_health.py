"""Probes: true while the event loop is blocked, and on both ports."""

import asyncio
import time
import urllib.request
from urllib.error import HTTPError

import httpx
import pytest

from ryzanstein_worker.engine.status import EngineHealth, RankHealth
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.server.health import HealthServer, Phase, Probes
from worker_process import WorkerProcess


class Engine:
    """An engine's health as shared memory would show it."""

    def __init__(self, alive: bool = True) -> None:
        self.alive = alive

    def health(self) -> EngineHealth:
        reason = "every rank gives signs of life" if self.alive else "rank 1 gave no sign of life for 12.0 s"
        return EngineHealth(self.alive, reason, (RankHealth(rank=0, state="step", age_seconds=0.1, beats=3),))


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


async def test_probes_answer_while_the_event_loop_is_blocked() -> None:
    probes = Probes()
    probes.engine, probes.phase = Engine(), "serving"
    server = HealthServer("127.0.0.1", 0, probes, lambda: b"metric 1\n")
    try:

        def ask() -> list[tuple[int, float]]:
            answers = []
            for path in ("/health/live", "/health/ready", "/metrics"):
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as response:
                    answers.append((response.status, time.monotonic()))
            return answers

        asking = asyncio.get_running_loop().run_in_executor(None, ask)
        time.sleep(2.0)  # noqa: ASYNC251 - the point: nothing else runs on this loop meanwhile
        unblocked = time.monotonic()
        answers = await asking
        assert [status for status, _ in answers] == [200, 200, 200]
        assert max(moment for _, moment in answers) < unblocked
    finally:
        server.close()


def test_a_page_that_fails_costs_only_itself() -> None:
    def broken() -> bytes:
        raise RuntimeError("secret")

    server = HealthServer("127.0.0.1", 0, Probes(), broken)
    try:
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5)
        with caught.value as error:
            assert (error.code, error.read()) == (500, b"failed\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health/live", timeout=5) as response:
            assert response.status == 200
        with pytest.raises(ConfigError, match="Address already in use"):
            HealthServer("127.0.0.1", server.port, Probes(), broken)
    finally:
        server.close()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_both_ports_have_the_same_pages(worker: WorkerProcess, path: str) -> None:
    answers = [httpx.get(base + path) for base in (worker.health, worker.api)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["content-type"] == answers[1].headers["content-type"]


def test_the_health_port_has_nothing_else(worker: WorkerProcess) -> None:
    assert httpx.get(f"{worker.health}/v1/models").status_code == 404
    assert httpx.get(f"{worker.health}/health/../etc/passwd").status_code == 404
