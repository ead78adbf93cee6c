"""A real operator shows what it knows on its doorbell, to who has the key; a crowd that looks costs little."""

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakeapi import FakeApi
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster.cache import Cache
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.recent import Recent
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.doorbell import Doorbell
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers import show as show_module
from ryzanstein_operator.handlers.run import Operator
from ryzanstein_operator.handlers.show import Show
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import OVERVIEW_PATH, VERSION

KEY = "a-shared-key"


@contextlib.asynccontextmanager
async def operator_with_a_door(
    cluster: Cluster, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Doorbell]:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    monkeypatch.setattr(show_module, "SAME_SECONDS", 0.05)
    key_file = folder / "key"
    key_file.write_text(KEY)
    operator = Operator(cluster, settings)
    task = asyncio.create_task(operator.run())
    try:
        with Doorbell(operator.hear, operator.hear_view, key_file, "127.0.0.1", 0, operator.show) as bell:
            yield bell
    finally:
        operator.stop()
        async with asyncio.timeout(30):
            await task


def ask(port: int) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{OVERVIEW_PATH}")
    request.add_header("authorization", f"Bearer {KEY}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_the_leader_shows_a_service_with_its_status_and_events(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"namespace": "team", "name": "chat"}
    spec = {"model": {"uri": "demo://"}, "replicas": 0}
    fake_api.put({"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": spec})
    async with operator_with_a_door(cluster, settings, tmp_path, monkeypatch) as bell, asyncio.timeout(45):
        while True:
            status, told = await asyncio.to_thread(ask, bell.port)
            if (
                status == 200
                and told["services"]
                and told["services"][0]["conditions"]
                and told["services"][0]["events"]
            ):
                break
            await asyncio.sleep(0.05)
    (row,) = told["services"]
    assert (row["namespace"], row["name"], row["key_sets"]) == ("team", "chat", ["default"])
    assert told["operator"]["leader"] is True
    assert (told["operator"]["version"], told["operator"]["identity"]) == (VERSION, "operator-0")
    assert {one["reason"] for one in row["events"]} >= {"RolloutComplete"}


async def test_a_standby_shows_nothing(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    held = {"holderIdentity": "another", "leaseDurationSeconds": 15, "renewTime": now, "acquireTime": now}
    place = {"namespace": "release", "name": "ryzanstein-operator"}
    fake_api.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": place, "spec": held})
    async with operator_with_a_door(cluster, settings, tmp_path, monkeypatch) as bell:
        await asyncio.sleep(0.5)
        assert (await asyncio.to_thread(ask, bell.port))[0] == 503


def services(count: int) -> Cache:
    cache = Cache()
    for number in range(count):
        metadata = {"namespace": "team", "name": f"s{number:04}", "uid": str(number), "resourceVersion": "1"}
        cache.put({"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": {}})
    return cache


async def test_a_crowd_that_looks_costs_one_look_a_second_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_module, "SAME_SECONDS", 600.0)  # no second of this test's, however long it takes
    monkeypatch.setattr(show_module, "GATHER_SECONDS", 30.0)
    show, gathered = Show(services(1200), Recent(), "me", lambda: True), []
    gather = show._gather

    async def counted() -> Any:
        gathered.append(time.monotonic())
        return await gather()

    monkeypatch.setattr(show, "_gather", counted)
    answers = await asyncio.gather(*(asyncio.to_thread(show) for _ in range(20)))
    assert len(gathered) == 1
    assert len(set(answers)) == 1
    told = json.loads(answers[0] or b"")
    assert (told["truncated"], told["services_total"], len(told["services"])) == (True, 1200, 1000)
    monkeypatch.setattr(show_module, "SAME_SECONDS", 0.0)
    await asyncio.to_thread(show)
    assert len(gathered) == 2


async def test_a_loop_that_is_stuck_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_module, "GATHER_SECONDS", 0.5)
    show, outcome = Show(services(1), Recent(), "me", lambda: True), []

    def asked() -> None:
        try:
            show()
        except TimeoutError:
            outcome.append("busy")

    threads, began = [threading.Thread(target=asked) for _ in range(40)], time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)  # on the event loop's own thread: it is stuck
    assert outcome == ["busy"] * 40
    assert time.monotonic() - began < 15, "they do not wait for one another: that would take 20 s"
