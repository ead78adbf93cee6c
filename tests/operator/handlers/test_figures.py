"""What a scraper gets of a real operator that leads, of one that stands by, and of one whose event loop is stuck."""

import asyncio
import contextlib
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fakeapi import FakeApi, Manifest
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster import views as views_module
from ryzanstein_operator.cluster.cache import Cache, Key
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.cluster.views import FRESH_SECONDS, Views
from ryzanstein_operator.decide.observed import ServiceView
from ryzanstein_operator.gateway_view import GatewayView
from ryzanstein_operator.handlers import figures as figures_module
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers.figures import Figures
from ryzanstein_operator.handlers.run import Operator
from ryzanstein_operator.health import HealthServer
from ryzanstein_operator.settings import Settings
from ryzanstein_operator.telemetry import Metrics

Samples = dict[str, dict[tuple[str, ...], float]]
PREFIX = "ryzanstein_operator_"


def a_service(name: str) -> Manifest:
    metadata = {"namespace": "team", "name": name}
    spec = {"model": {"uri": "demo://"}, "replicas": 2}
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": spec}


def scrape(port: int) -> Samples:
    """By name without the prefix, and the values of the labels by the labels' names."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
    request.add_header("accept", "application/openmetrics-text; version=1.0.0")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        page = answer.read().decode()
    found: Samples = {}
    for sample in (sample for family in text_string_to_metric_families(page) for sample in family.samples):
        labels = tuple(value for _, value in sorted(sample.labels.items()))
        found.setdefault(sample.name.removeprefix(PREFIX), {})[labels] = sample.value
    return found


@contextlib.asynccontextmanager
async def scraped(
    cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Operator, Callable[[], Samples]]]:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    monkeypatch.setattr(figures_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(views_module, "FRESH_SECONDS", 600.0)  # a gateway that has spoken once is heard throughout
    operator = Operator(cluster, settings)
    task = asyncio.create_task(operator.run())
    try:
        with HealthServer(operator.probes, "127.0.0.1", 0) as server:
            yield operator, lambda: scrape(server.port)
    finally:
        operator.stop()
        async with asyncio.timeout(30):
            await task


async def until(ask: Callable[[], Samples], holds: Callable[[Samples], object]) -> Samples:
    async with asyncio.timeout(45):
        while not holds(found := await asyncio.to_thread(ask)):
            await asyncio.sleep(0.05)
    return found


async def test_a_leader_shows_each_service_as_long_as_it_is_there(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scraped(cluster, settings, monkeypatch) as (operator, ask):
        fake_api.put(a_service("chat"))
        await asyncio.to_thread(operator.hear_view, GatewayView("gateway-0", ()))
        # The status comes back through the watch, and may do so before the visit that wrote it has ended.
        found = await until(
            ask,
            lambda found: (
                ("Ready", "False") in found.get("services", {})
                and ("done",) in found.get("reconcile_duration_seconds_count", {})
            ),
        )
        assert found["desired_replicas"]["chat", "team"] == 2
        assert found["ready_replicas"]["chat", "team"] == 0
        assert "max_replicas" not in found, "it does not scale"
        assert (found["leader"][()], found["leader_transitions_total"][()]) == (1, 1)
        assert found["gateways_heard"][()] == 1
        assert found["api_request_duration_seconds_count"]["2xx", "list"] > 5
        assert found["api_request_duration_seconds_count"]["2xx", "patch"] > 5
        assert found["queue_wait_seconds_count"][()] > 0
        assert found["queue_wait_seconds_sum"][()] < 30 * found["queue_wait_seconds_count"][()], "not since the boot"
        assert found["reconcile_duration_seconds_count"][("done",)] > 0
        fake_api.delete(SERVICES.kind, "team", "chat")
        gone = await until(ask, lambda found: "desired_replicas" not in found)
        assert not [name for name, rows in gone.items() if any("chat" in labels for labels in rows)]


async def test_a_standby_shows_itself_alone(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    held = {"holderIdentity": "another", "leaseDurationSeconds": 15, "renewTime": now, "acquireTime": now}
    place = {"namespace": "release", "name": "ryzanstein-operator"}
    fake_api.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": place, "spec": held})
    fake_api.put(a_service("chat"))
    async with scraped(cluster, settings, monkeypatch) as (operator, ask):
        await asyncio.to_thread(operator.hear_view, GatewayView("gateway-0", ()))
        found = await until(
            ask,
            lambda found: found["gateways_heard"][()] == 1 and not operator._loop.fault and operator._loop.backlog()[0],
        )
    assert (found["leader"][()], found["queue_depth"][()], found["queue_oldest_seconds"][()]) == (0, 0, 0)
    assert not {"services", "desired_replicas", "ready_replicas", "reconcile_duration_seconds_count"} & found.keys()
    assert found["api_request_duration_seconds_count"]["2xx", "list"] > 5


class Held:
    """A Lease as far as a look asks it."""

    def __init__(self) -> None:
        self.is_held = True

    def held(self) -> bool:
        return self.is_held


def test_a_process_that_leads_no_more_takes_its_series_along() -> None:
    cache, lease, metrics = Cache(), Held(), Metrics()
    manifest = a_service("chat")
    cache.put({**manifest, "metadata": {**manifest["metadata"], "uid": "1", "resourceVersion": "1"}})
    figures = Figures(cache, Views(), lease, lambda: (3, 0.0), metrics)  # type: ignore[arg-type]
    figures.look()
    labels = {"namespace": "team", "name": "chat"}
    assert metrics.registry.get_sample_value(f"{PREFIX}desired_replicas", labels) == 2
    assert metrics.registry.get_sample_value(f"{PREFIX}queue_depth") == 3
    lease.is_held = False
    figures.look()
    assert metrics.registry.get_sample_value(f"{PREFIX}desired_replicas", labels) is None
    assert metrics.registry.get_sample_value(f"{PREFIX}queue_depth") == 0


def test_a_gateway_counts_as_heard_as_long_as_it_speaks() -> None:
    now = [0.0]
    views = Views(lambda: now[0])
    views.tell("one", [(Key("team", "chat"), ServiceView("one", 1))])
    now[0] = FRESH_SECONDS - 1
    views.tell("two", [])
    assert views.heard() == 2
    now[0] = FRESH_SECONDS + 1
    assert views.heard() == 1


async def test_a_loop_that_is_stuck_still_answers_a_scrape_and_its_queue_grows_old(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scraped(cluster, settings, monkeypatch) as (operator, ask):
        await until(ask, lambda found: found["leader"][()] == 1)
        ages: list[float] = []

        def scrape_later() -> None:
            time.sleep(0.3)
            ages.append(ask()["queue_oldest_seconds"][()])

        thread = threading.Thread(target=scrape_later)
        operator._metrics.queued(1, time.monotonic())
        thread.start()
        thread.join(40)  # on the event loop's own thread: it is stuck
    assert ages[0] >= 0.3
