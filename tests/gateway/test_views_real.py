"""Real gateway processes and real workers: what happens to a worker is told to the operator within five seconds."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from doorbell import KEY, Ear, Heard, listening
from local_cluster import MODEL, LocalCluster, Worker, local_cluster

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(240)]

SERVICE = f"{MODEL}-workers"
SECONDS = 5.0


def states(heard: Heard) -> dict[str, str]:
    """Each replica that is not sound, and how it is seen."""
    return {one["address"]: one["state"] for one in heard.service(SERVICE)["replicas"]}


async def until_seen(ear: Ear, worker: Worker, *words: str) -> Heard:
    """Wait until the operator hears of a worker in one of these words, no longer than promised."""
    return await ear.until(f"{worker.host} is {words}", lambda one: states(one).get(worker.host) in words, SECONDS)


async def until_all_sound(ear: Ear, cluster: LocalCluster) -> None:
    """Wait until the operator hears of nothing but sound replicas."""
    many = len(cluster.workers)
    await ear.until("all are sound", lambda one: one.service(SERVICE).get("sound") == many and not states(one), SECONDS)


async def test_a_dead_a_hung_and_a_frozen_worker_are_told_of_within_five_seconds_and_so_is_their_return(
    tmp_path: Path,
) -> None:
    key = tmp_path / "demand-key"
    key.write_text(KEY)
    async with (
        listening() as ear,
        local_cluster(
            tmp_path,
            RYZANSTEIN_GATEWAY_PROCESSES="2",
            RYZANSTEIN_OPERATOR_URL=f"http://127.0.0.1:{ear.port}",
            RYZANSTEIN_DEMAND_KEY_FILE=str(key),
        ) as cluster,
    ):
        await until_all_sound(ear, cluster)
        first, second = cluster.workers
        (rank,) = second.ranks

        os.kill(rank, signal.SIGSTOP)
        lags = await until_seen(ear, second, "Lagging")
        os.kill(rank, signal.SIGCONT)
        assert lags.service(SERVICE)["sound"] == 1
        (said,) = lags.service(SERVICE)["replicas"]
        assert 3.0 <= said["seconds"] <= SECONDS
        assert "has not moved for" in said["reason"]
        await until_all_sound(ear, cluster)

        second.signal(signal.SIGSTOP)  # as a frozen machine: the kernel still takes connections, and nobody answers
        silent = await until_seen(ear, second, "Unreachable")
        (said,) = silent.service(SERVICE)["replicas"]
        assert 1.0 <= said["seconds"] <= SECONDS
        second.signal(signal.SIGCONT)
        await until_all_sound(ear, cluster)

        (rank,) = first.ranks
        os.kill(rank, signal.SIGKILL)  # its worker ends as soon as it has told its clients
        dead = await until_seen(ear, first, "Refused", "NotReady", "Lagging")
        assert dead.service(SERVICE)["sound"] == 1
        await asyncio.to_thread(first.process.wait, 10)
        assert first.process.returncode == 70
        await until_seen(ear, first, "Refused")
        cluster.restart(first)
        await first.until_ready()
        await until_all_sound(ear, cluster)

        members = {one.view["sender"] for one in ear.heard}
        assert len(members) == 1, "one process speaks for the pod"
        at = [one.at for one in ear.heard]
        assert max(later - earlier for earlier, later in itertools.pairwise(at)) < 6.0
        assert len(ear.heard) < 8 + 4 * (time.monotonic() - at[0])
