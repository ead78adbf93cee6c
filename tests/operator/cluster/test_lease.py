"""One process leads at a time; it stops by its own clock; the Lease is handed on, or taken when it has expired."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fakeapi import FakeApi, refuse
from ryzanstein_operator.cluster import lease as module
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.heartbeat import Freshness
from ryzanstein_operator.cluster.lease import LEASE_SECONDS, RENEW_DEADLINE_SECONDS, LeadershipLostError, Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.03)


def a_lease(cluster: Cluster, identity: str, clock: Clock) -> Lease:
    return Lease(cluster, "release", "operator", identity, Freshness(clock), clock)


@contextlib.asynccontextmanager
async def running(lease: Lease) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(lease.run())
    yield task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, LeadershipLostError):
        await task


async def until(lease: Lease, held: bool = True) -> None:
    async with asyncio.timeout(30):
        while lease.held() is not held:
            await asyncio.sleep(0.01)


async def test_of_two_only_one_leads(fake_api: FakeApi, cluster: Cluster) -> None:
    clock = Clock()
    one, two = a_lease(cluster, "one", clock), a_lease(cluster, "two", clock)
    async with running(one), running(two):
        async with asyncio.timeout(30):
            # Whoever came too late to make the Lease learns only from its next look who holds it.
            while not ((one.held() or two.held()) and one.holder and two.holder) or len(fake_api.calls) < 20:
                assert not (one.held() and two.held())
                await asyncio.sleep(0.01)
        assert one.held() is not two.held()
        assert {one.holder, two.holder} <= {"one", "two"}


async def test_a_released_lease_is_taken_at_once(fake_api: FakeApi, cluster: Cluster) -> None:
    clock = Clock()
    one, two = a_lease(cluster, "one", clock), a_lease(cluster, "two", clock)
    async with running(one):
        await until(one)
    async with running(two):
        await one.release()
        assert not one.held()
        await until(two)  # the clock stands still: nothing has expired
    spec = (fake_api.get("Lease", "release", "operator") or {})["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)


async def test_a_dead_leaders_lease_is_taken_only_when_it_has_expired(fake_api: FakeApi, cluster: Cluster) -> None:
    clock = Clock()
    one, two = a_lease(cluster, "one", clock), a_lease(cluster, "two", clock)
    async with running(one):
        await until(one)
    async with running(two):
        seen = len(fake_api.calls)
        async with asyncio.timeout(30):
            while len(fake_api.calls) < seen + 5:
                await asyncio.sleep(0.01)
        clock.now += LEASE_SECONDS
        await asyncio.sleep(0.1)
        assert not two.held()
        clock.now += 1
        await until(two)


async def test_a_leader_that_was_frozen_may_not_write(cluster: Cluster) -> None:
    clock = Clock()
    one = a_lease(cluster, "one", clock)
    async with running(one):
        await until(one)
    clock.now += RENEW_DEADLINE_SECONDS
    assert not one.held()


async def test_a_leader_that_was_replaced_ends(fake_api: FakeApi, cluster: Cluster) -> None:
    clock = Clock()
    one, two = a_lease(cluster, "one", clock), a_lease(cluster, "two", clock)
    async with running(one) as task:
        await until(one)
        stolen = fake_api.get("Lease", "release", "operator")
        assert stolen is not None
        stolen["spec"]["holderIdentity"] = two.identity
        fake_api.put(stolen)
        async with asyncio.timeout(30):
            with pytest.raises(LeadershipLostError, match="held by two"):
                await task
    assert not one.held()


async def test_an_api_server_that_is_down_ends_no_leader_but_stops_it(fake_api: FakeApi, cluster: Cluster) -> None:
    clock = Clock()
    one = a_lease(cluster, "one", clock)
    async with running(one) as task:
        await until(one)
        fake_api.faults += [refuse(method, "/leases", 503, "down") for method in ("GET", "PUT")]
        clock.now += RENEW_DEADLINE_SECONDS
        async with asyncio.timeout(30):
            while not one.fault:
                await asyncio.sleep(0.01)
        assert not one.held()
        fake_api.faults.clear()
        await until(one)
        assert not task.done()
        assert one.fault == ""


async def test_who_may_not_touch_the_lease_stands_by_and_says_why(fake_api: FakeApi, cluster: Cluster) -> None:
    one = a_lease(cluster, "one", Clock())
    fake_api.faults.append(refuse("GET", "/leases", 403, "leases is forbidden"))
    async with running(one):
        async with asyncio.timeout(30):
            while "forbidden" not in one.fault:
                await asyncio.sleep(0.01)
        assert not one.held()


async def test_a_release_that_fails_raises_nothing(fake_api: FakeApi, cluster: Cluster) -> None:
    one = a_lease(cluster, "one", Clock())
    async with running(one):
        await until(one)
    fake_api.faults.append(refuse("PUT", "/leases", 500, "down"))
    await one.release()
    assert not one.held()
