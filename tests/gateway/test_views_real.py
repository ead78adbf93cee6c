"""Real gateway processes and real workers: what happens to a worker is told to the operator within five seconds."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from doorbell import KEY, Ear, Heard, listening
from held_up import Held
from local_cluster import MODEL, LocalCluster, Worker, local_cluster
from processes import children

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(240)]

SERVICE = f"{MODEL}-workers"
SECONDS = 5.0
PATIENCE = 40.0
"""When to give up waiting; what is promised is SECONDS."""


def states(heard: Heard) -> dict[str, str]:
    """Each replica that is not sound, and how it is seen."""
    return {one["address"]: one["state"] for one in heard.service(SERVICE)["replicas"]}


def processes_of(cluster: LocalCluster) -> list[int]:
    """Those that the promise is about: the test, the gateway, the workers."""
    pids = [os.getpid(), cluster.gateway.process.pid, *cluster.gateway.members]
    for worker in cluster.workers:
        pids.append(worker.process.pid)
        with suppress(OSError):  # it has ended
            pids += children(worker.process.pid)
    return pids


async def within(ear: Ear, cluster: LocalCluster, what: str, condition: Callable[[Heard], bool]) -> Heard:
    """The first view for which the condition holds. It must come within the promised time, in which this machine lets
    run what can run."""
    began, held = time.monotonic(), Held(processes_of(cluster))
    found = await ear.until(what, condition, PATIENCE)
    took, lost = found.at - began, held.seconds()
    assert took <= SECONDS + lost, f"{what}: heard after {took:.1f} s, of which this machine took {lost:.1f}"
    return found


async def until_seen(ear: Ear, cluster: LocalCluster, worker: Worker, *words: str) -> Heard:
    """Wait until the operator hears of a worker in one of these words."""
    return await within(ear, cluster, f"{worker.host} is {words}", lambda one: states(one).get(worker.host) in words)


async def until_all_sound(ear: Ear, cluster: LocalCluster) -> None:
    """Wait until the operator hears of nothing but sound replicas."""
    many = len(cluster.workers)
    await within(
        ear, cluster, "all are sound", lambda one: one.service(SERVICE).get("sound") == many and not states(one)
    )


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

        began = time.monotonic()
        os.kill(rank, signal.SIGSTOP)
        lags = await until_seen(ear, cluster, second, "Lagging")
        os.kill(rank, signal.SIGCONT)
        assert lags.service(SERVICE)["sound"] == 1
        (said,) = lags.service(SERVICE)["replicas"]
        assert 3.0 <= said["seconds"] <= lags.at - began + 3.0, "it had moved shortly before"
        assert "has not moved for" in said["reason"]
        await until_all_sound(ear, cluster)

        began = time.monotonic()
        second.signal(signal.SIGSTOP)  # as a frozen machine: the kernel still takes connections, and nobody answers
        silent = await until_seen(ear, cluster, second, "Unreachable")
        (said,) = silent.service(SERVICE)["replicas"]
        assert 1.0 <= said["seconds"] <= silent.at - began + 3.0, "it had answered shortly before"
        second.signal(signal.SIGCONT)
        await until_all_sound(ear, cluster)

        (rank,) = first.ranks
        os.kill(rank, signal.SIGKILL)  # its worker ends as soon as it has told its clients
        dead = await until_seen(ear, cluster, first, "Refused", "NotReady", "Lagging")
        assert dead.service(SERVICE)["sound"] == 1
        await asyncio.to_thread(first.process.wait, 60)
        assert first.process.returncode == 70
        await until_seen(ear, cluster, first, "Refused")
        cluster.restart(first)
        await first.until_ready()
        await until_all_sound(ear, cluster)

        members = {one.view["sender"] for one in ear.heard}
        assert len(members) == 1, "one process speaks for the pod"
        at = [one.at for one in ear.heard]
        assert max(later - earlier for earlier, later in itertools.pairwise(at)) < 7.9, (
            "one was left out: they come every 4 s"
        )
        assert len(ear.heard) < 8 + 4 * (time.monotonic() - at[0])
