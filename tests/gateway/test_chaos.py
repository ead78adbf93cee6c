"""What breaks behind the gateway is not seen in front of it: real processes in place of pods.

The stories of e2e/failover say the same of a cluster, with more requests.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import figures
from chaos import REPORT, Seen, clients, expected
from local_cluster import MODEL, LocalCluster, local_cluster
from stories import until

BEFORE = 40
REQUESTS = 200

figures.tell("32 streaming clients, local processes", lambda: REPORT)
pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

Break = Callable[[LocalCluster], Awaitable[None]]


async def under_load(cluster: LocalCluster, breaks: Break) -> Seen:
    """32 clients that know the right answers; what they saw of a fault among their requests."""
    answers = await asyncio.to_thread(expected, cluster.door, MODEL)
    loop = asyncio.get_running_loop()

    def load() -> Seen:
        with clients(cluster.door, MODEL, answers) as seen:
            until(90, f"{BEFORE} requests before the fault", lambda: seen.requests >= BEFORE, every=0.05)
            asyncio.run_coroutine_threadsafe(breaks(cluster), loop).result(120)
            until(150, f"{REQUESTS} requests", lambda: seen.requests >= REQUESTS, every=0.05)
        return seen

    return await asyncio.to_thread(load)


async def migrations(cluster: LocalCluster) -> float:
    lines = await cluster.gateway.metrics()
    return sum(value for line, value in lines.items() if line.startswith("ryzanstein_gateway_migrations_total"))


async def kill_a_worker(cluster: LocalCluster) -> None:
    cluster.workers[0].process.kill()


async def freeze_a_rank(cluster: LocalCluster) -> None:
    os.kill(cluster.workers[0].ranks[0], signal.SIGSTOP)


async def freeze_a_worker(cluster: LocalCluster) -> None:
    cluster.workers[0].signal(signal.SIGSTOP)


@pytest.mark.parametrize("breaks", [kill_a_worker, freeze_a_rank, freeze_a_worker])
async def test_streams_of_a_lost_worker_go_on_elsewhere_token_by_token(tmp_path: Path, breaks: Break) -> None:
    async with local_cluster(tmp_path) as cluster:
        seen = await under_load(cluster, breaks)
        seen.report(f"local processes, {breaks.__name__}")
        assert seen.failures == [], cluster.gateway.said("WARNING", "ERROR")
        assert seen.different == []
        assert await migrations(cluster) > 0, "no stream had to be continued"


async def test_a_rollout_is_not_seen(tmp_path: Path) -> None:
    async def roll_out(cluster: LocalCluster) -> None:
        for old in cluster.workers[:2]:
            new = cluster.start_worker()
            await new.until_ready()
            staying = [worker for worker in cluster.workers if worker is not old and worker.process.poll() is None]
            await cluster.announce(staying, leaving=[old])
            old.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.process.wait, 60) == 0
            await cluster.announce(staying)

    async with local_cluster(tmp_path) as cluster:
        seen = await under_load(cluster, roll_out)
        seen.report("local processes, rollout")
        assert seen.failures == [], cluster.gateway.said("WARNING", "ERROR")
        assert seen.different == []


async def test_a_killed_gateway_process_takes_only_its_own_connections(tmp_path: Path) -> None:
    async def kill_a_member(cluster: LocalCluster) -> None:
        os.kill(cluster.gateway.members[0], signal.SIGKILL)

    async with local_cluster(tmp_path, RYZANSTEIN_GATEWAY_PROCESSES="2") as cluster:
        seen = await under_load(cluster, kill_a_member)
        seen.report("local processes, kill_a_gateway_process")
        assert all(failure.startswith(("Client", "Server")) for failure in seen.failures), seen.failures
        assert len(seen.failures) < 32, "streams of the other process broke too"
        assert seen.different == []
