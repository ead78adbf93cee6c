"""A group lives and dies together: each way to lose a rank, with real processes and signals."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine_requests import add_request
from processes import children, is_running, until, wait_until
from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.engine import Engine, GroupLost, GroupLostError
from tiny_model import write_tiny_model

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]  # ranks import torch: seconds, a minute on a busy machine

PROMPT = list(range(10, 40))
ENDLESS = 8000
"""Tokens that take seconds on any machine: a request for them still runs when a test that was held up goes on."""
GIVE_UP_SECONDS = 30.0
TICK_SECONDS = 0.1
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2 * ENDLESS)


@asynccontextmanager
async def started(model_dir: Path, ranks: int, **values: object) -> AsyncIterator[tuple[Engine, list[int]]]:
    """An engine and its ranks' process ids, in rank order."""
    before = children(os.getpid())
    settings = EngineConfig(
        model_dir=str(model_dir),
        tensor_parallel_size=ranks,
        device="cpu",
        **{"num_kv_blocks": 1024, **values},  # type: ignore[arg-type]  # the values name its fields
    )
    engine = await Engine.start(settings)
    try:
        yield engine, sorted(set(children(os.getpid())) - set(before))
    finally:
        await engine.stop()


async def lost_within(engine: Engine, seconds: float) -> GroupLost:
    """Fails after `seconds`. As the supervisor has it, a pause of this process' own counts as two ticks at most: it is
    here that the ranks are watched."""
    losing, spent = asyncio.create_task(engine.wait_lost()), 0.0
    try:
        while not losing.done():
            assert spent < seconds, f"the group was not lost within {seconds} s"
            began = time.monotonic()
            await asyncio.wait([losing], timeout=TICK_SECONDS)
            spent += min(time.monotonic() - began, 2 * TICK_SECONDS)
        return await losing
    finally:
        losing.cancel()


async def lose(engine: Engine, pids: list[int], victim: int, number: signal.Signals, within: float) -> str:
    """Signal one rank while a stream runs; the reason that the engine gives once all ranks have ended."""
    stream = engine.generate(add_request(PROMPT, max_tokens=ENDLESS))
    await anext(stream)
    os.kill(pids[victim], number)
    lost = await lost_within(engine, within)
    assert not any(is_running(pid) for pid in pids), "a rank outlived its group"
    assert lost.rank == victim
    with pytest.raises(GroupLostError):
        async for _ in stream:
            pass
    assert not engine.health().alive
    with pytest.raises(GroupLostError):
        await anext(engine.generate(add_request(PROMPT)))
    return lost.reason


async def test_a_killed_rank_ends_the_group_within_two_seconds_and_is_named(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = 1  # rank 0 then fails in a collective, and must not be blamed
    async with started(model_dir, 2) as (engine, pids):
        reason = await lose(engine, pids, victim, signal.SIGKILL, within=2.0)
        assert reason.startswith(f"rank {victim} was killed by SIGKILL")
    records = [record for record in caplog.records if record.name == "ryzanstein_worker.engine.supervisor"]
    assert len(records) == 1, "one log line says it, no more"
    assert (records[0].levelno, records[0].culprit_rank, records[0].culprit_pid) == (  # type: ignore[attr-defined]  # extras
        logging.ERROR,
        victim,
        pids[victim],
    )


async def test_a_frozen_rank_ends_the_group_and_the_one_that_waits_for_it_is_not_blamed(model_dir: Path) -> None:
    async with started(model_dir, 2, hang_timeout_seconds=1.5) as (engine, pids):
        reason = await lose(engine, pids, 1, signal.SIGSTOP, within=5.0)
        assert "its process is stopped" in reason


async def test_a_prefill_longer_than_the_hang_timeout_is_progress(tmp_path: Path) -> None:
    model_dir = write_tiny_model(
        tmp_path, num_layers=96, hidden_size=64, intermediate_size=256, max_position_embeddings=16384
    )
    # A layer takes a hundredth of the whole: far less than the timeout, also on a machine that is ten times slower.
    hang, most = 3.0, 16384
    values = {"hang_timeout_seconds": hang, "max_num_batched_tokens": most, "enable_prefix_caching": False}
    took, size = 0.0, 1000
    async with started(model_dir, 1, num_kv_blocks=most // 16, **values) as (engine, _):
        while took < 1.5 * hang:
            size *= 2
            assert size < most, "the prefill was too short to show anything"
            start = time.monotonic()
            stream = engine.generate(add_request([n % 300 for n in range(size)], max_tokens=1))
            assert (await anext(stream)).finish_reason == "length"
            took = time.monotonic() - start


async def test_a_rank_that_speaks_no_frames_ends_the_group(model_dir: Path) -> None:
    async with started(model_dir, 1) as (engine, pids):
        stream = engine.generate(add_request(PROMPT, max_tokens=ENDLESS))
        await anext(stream)
        engine._executor.links[0]._reader.feed_data(b"\xff" * 64)  # as if it had written it
        async with asyncio.timeout(GIVE_UP_SECONDS):
            assert (await engine.wait_lost()).rank == 0
        with pytest.raises(GroupLostError):
            async for _ in stream:
                pass
        assert not any(is_running(pid) for pid in pids)


@pytest.fixture
def parent(model_dir: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "engine_parent.py"), str(model_dir), "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # who is killed cannot clean up
    )
    yield process
    process.kill()
    process.communicate(timeout=GIVE_UP_SECONDS)


def test_the_ranks_end_with_their_parent(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    ranks = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(ranks) == 2
    assert all(is_running(pid) for pid in ranks)
    parent.kill()
    wait_until(lambda: not any(is_running(pid) for pid in ranks), GIVE_UP_SECONDS, "the ranks ended")


async def test_a_rank_that_dies_while_loading_ends_the_start(model_dir: Path) -> None:
    before = children(os.getpid())
    start = asyncio.create_task(Engine.start(EngineConfig(model_dir=str(model_dir), device="cpu")))
    await until(lambda: len(children(os.getpid())) > len(before), GIVE_UP_SECONDS, "a rank")
    (rank,) = set(children(os.getpid())) - set(before)
    os.kill(rank, signal.SIGKILL)
    with pytest.raises(GroupLostError, match="rank 0 was killed by SIGKILL"):
        await asyncio.wait_for(start, GIVE_UP_SECONDS)
    assert children(os.getpid()) == before


def test_a_rank_without_its_parent_ends_at_once(model_dir: Path) -> None:
    """The parent went between fork and exec: nobody will ever speak to this rank."""
    launch = {"config": {"model_dir": str(model_dir)}, "rank": 0, "epoch": "e", "parent_pid": 1, "store_path": ""}
    launch |= {"heartbeat_fd": 0, "ledger_fd": 0, "spawned": 0.0, "parent_fd": 0, "peer_fds": []}
    done = subprocess.run(
        [sys.executable, "-m", "ryzanstein_worker.engine.rank", json.dumps(launch)], timeout=60, capture_output=True
    )
    assert done.returncode == 0
