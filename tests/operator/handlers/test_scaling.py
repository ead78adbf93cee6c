"""The whole operator with a Prometheus that a test holds: sizes follow it, are held without it, and come from zero."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fakeapi import FakeApi, Manifest
from operator_life import conditions, running, until, until_quiet
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster import prometheus as prometheus_module
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.doorbell import Heard, Word
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers import sampling as sampling_module
from ryzanstein_operator.handlers import scaler as scaler_module
from ryzanstein_operator.settings import Metrics, Settings
from stubprometheus import Fault, Stub, stub_prometheus, vector

pytestmark = pytest.mark.timeout(240)  # each wait has its own limit

HASTY = {"scaleDown": {"stabilizationWindowSeconds": 0}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    monkeypatch.setattr(sampling_module, "PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(sampling_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(scaler_module, "SCRAPED_SECONDS", 0.0)
    monkeypatch.setattr(prometheus_module, "REST_SECONDS", 0.1)
    monkeypatch.setattr(prometheus_module, "QUERY_SECONDS", 30.0)  # the stub is in this process, and may stand still


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_prometheus() as found:
        yield found


@pytest.fixture
def watched(settings: Settings, stub: Stub) -> Settings:
    return replace(settings, prometheus=Metrics(stub.url))


def make(api: FakeApi, name: str = "chat", **autoscaling: Any) -> Manifest:
    """An autoscaled service; keywords are fields of spec.autoscaling."""
    targets = [{"metric": "WaitingRequests", "value": 5}]
    spec = {"maxReplicas": 4, "targets": targets, "behavior": HASTY, **autoscaling}
    return api.put(
        {
            "apiVersion": SERVICES.api_version,
            "kind": SERVICES.kind,
            "metadata": {"namespace": "team", "name": name},
            "spec": {"model": {"uri": "demo://"}, "replicas": 1, "autoscaling": spec},
        }
    )


def play_kubelet(api: FakeApi, name: str = "chat") -> None:
    """As many ready pods as the Deployment asks for."""
    deployment = api.get("Deployment", "team", name)
    for number in range(8):
        pod = api.get("Pod", "team", f"{name}-{number}")
        if number < size(api, name) and pod is None and deployment:
            template = deployment["spec"]["template"]
            told = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")]
            api.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": "team", "name": f"{name}-{number}", **template["metadata"]},
                    "spec": {**template["spec"], "nodeName": "node-1"},
                    "status": {"phase": "Running", "conditions": told},
                }
            )
        elif number >= size(api, name) and pod is not None:
            api.delete("Pod", "team", f"{name}-{number}")


def size(api: FakeApi, name: str = "chat") -> int:
    deployment = api.get("Deployment", "team", name)
    return -1 if deployment is None else int(deployment["spec"]["replicas"])


def status(api: FakeApi) -> Manifest:
    return dict((api.get(SERVICES.kind, "team", "chat") or {}).get("status", {}))


def active(api: FakeApi) -> str:
    found = conditions(api).get("ScalingActive", {})
    return f"{found.get('status')} {found.get('reason')}"


def rescaled(api: FakeApi) -> list[str]:
    return [event["note"] for event in api.all("Event") if event["reason"] == "Rescaled"]


async def grown(api: FakeApi, replicas: int) -> None:
    """Until there are so many, and all of them are ready."""

    def there() -> bool:
        play_kubelet(api)
        return size(api) == replicas and status(api).get("readyReplicas") == replicas

    await until(there)


async def test_the_size_follows_the_load_up_and_down_and_the_spec_stays_the_users(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub
) -> None:
    async with running(cluster, watched):
        make(fake_api)
        await grown(fake_api, 1)
        stub.value = 15
        await grown(fake_api, 3)
        stub.replicas = 3
        await until(lambda: status(fake_api)["autoscaling"].get("value") == "15")
        told = status(fake_api)
        assert told["desiredReplicas"] == 3
        assert told["autoscaling"] | {"lastScaleTime": "", "message": ""} == {
            "metric": "WaitingRequests",
            "value": "15",
            "target": "5",
            "lastScaleTime": "",
            "message": "",
        }
        assert told["autoscaling"]["lastScaleTime"].endswith("Z")
        stub.value = 0
        await grown(fake_api, 1)
        live = fake_api.get(SERVICES.kind, "team", "chat")
        assert live is not None
        assert live["spec"]["replicas"] == 1
        up, down = rescaled(fake_api)
        assert up.startswith("1 to 3 replicas: WaitingRequests is 15")
        assert down.startswith("3 to 1 replicas: WaitingRequests is 0")


FAULTS = {
    "nothing": Fault(200, vector([])),
    "not a number": Fault(
        200, vector([({"part": "value"}, "NaN"), ({"part": "replicas"}, 2), ({"part": "gateways"}, 1)])
    ),
    "absurd": Fault(200, vector([({"part": "value"}, "1e300"), ({"part": "replicas"}, 2), ({"part": "gateways"}, 1)])),
    "negative": Fault(200, vector([({"part": "value"}, -5), ({"part": "replicas"}, 2), ({"part": "gateways"}, 1)])),
    "silence": Fault(silent=True),
    "an inner fault": Fault(500, b"oops"),
    "no right": Fault(401),
    "a huge body": Fault(200, b" " * (prometheus_module.MAX_BYTES + 1)),
    "garbage": Fault(200, b"\xff\x00<html>"),
}


@pytest.mark.slow  # each of them waits for samples to become stale
@pytest.mark.parametrize("title", FAULTS)
async def test_without_a_usable_number_the_size_is_held_and_it_is_said_and_then_it_goes_on(
    title: str, fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(cluster, watched):
        make(fake_api)
        stub.value = 10
        await grown(fake_api, 2)
        stub.replicas = 2
        await until(lambda: active(fake_api) == "True MetricsRead")
        # Only while there is no number: a machine that stands still would make any sample old.
        monkeypatch.setattr(sampling_module, "STALE_SECONDS", 0.6)
        monkeypatch.setattr(prometheus_module, "QUERY_SECONDS", 0.3 if title == "silence" else 30.0)
        stub.fault = FAULTS[title]
        await until(lambda: active(fake_api) == "False MetricsUnavailable")
        asked, writes = len(stub.queries), await until_quiet(fake_api)
        await until(lambda: len(stub.queries) > asked + 3)
        assert size(fake_api) == 2
        assert len(fake_api.writes()) == writes, "the same again is no news"
        assert conditions(fake_api)["Ready"]["status"] == "True"
        monkeypatch.setattr(prometheus_module, "QUERY_SECONDS", 30.0)
        monkeypatch.setattr(sampling_module, "STALE_SECONDS", scaler_module.STALE_SECONDS)
        stub.fault, stub.value = None, 15
        await grown(fake_api, 3)
        await until(lambda: active(fake_api) == "True MetricsRead")


@pytest.mark.slow
async def test_a_short_silence_changes_nothing(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub
) -> None:
    """For as long as the last samples are fresh: half a minute."""
    async with running(cluster, watched):
        make(fake_api)
        stub.value = 10
        await grown(fake_api, 2)
        stub.replicas = 2
        await until(lambda: active(fake_api) == "True MetricsRead")
        stub.fault, asked = Fault(500), len(stub.queries)
        await until(lambda: len(stub.queries) > asked + 5)
        assert active(fake_api) == "True MetricsRead"
        assert not [event for event in fake_api.all("Event") if event["reason"] == "MetricsUnavailable"]


async def test_without_prometheus_the_message_says_what_to_set(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    async with running(cluster, settings):
        make(fake_api, minReplicas=2)
        await until(lambda: active(fake_api) == "False MetricsUnavailable")
        assert "prometheus.url" in conditions(fake_api)["ScalingActive"]["message"]
        assert size(fake_api) == 2


@pytest.mark.slow
async def test_another_operator_goes_on_with_the_size_that_it_finds(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub
) -> None:
    async with running(cluster, watched):
        make(fake_api)
        stub.value = 15
        await grown(fake_api, 3)
    stub.fault = Fault(500)
    sizes = set()
    async with running(cluster, watched):
        await until(lambda: active(fake_api) == "False MetricsUnavailable")
        for _ in range(20):
            sizes.add(size(fake_api))
            await asyncio.sleep(0.02)
    assert sizes == {3}


@pytest.mark.slow
async def test_also_where_the_status_is_lost(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub
) -> None:
    async with running(cluster, watched):
        make(fake_api)
        stub.value = 15
        await grown(fake_api, 3)
    stub.fault = Fault(500)
    live = fake_api.get(SERVICES.kind, "team", "chat")
    assert live is not None
    fake_api.put({**live, "status": {}})
    async with running(cluster, watched):
        await until(lambda: active(fake_api) == "False MetricsUnavailable")
        assert (size(fake_api), status(fake_api)["desiredReplicas"]) == (3, 3)


@pytest.mark.slow
async def test_without_autoscaling_spec_replicas_holds_again(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub
) -> None:
    async with running(cluster, watched):
        live = make(fake_api)
        stub.value = 15
        await grown(fake_api, 3)
        current = fake_api.get(SERVICES.kind, "team", "chat") or live
        fake_api.put({**current, "spec": {"model": {"uri": "demo://"}, "replicas": 2}})
        await grown(fake_api, 2)
        await until(lambda: active(fake_api) == "False NotConfigured")
        assert "autoscaling" not in status(fake_api)
        asked = len(stub.queries)
        await asyncio.sleep(0.4)
        assert len(stub.queries) <= asked + 1


async def test_the_first_request_at_zero_brings_a_replica_at_once_also_without_prometheus(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    live = make(fake_api, minReplicas=0)
    fake_api.put({**live, "status": {"desiredReplicas": 0, "autoscaling": {"metric": ""}}})
    async with running(cluster, settings) as operator:
        await until(lambda: size(fake_api) == 0)
        await until(lambda: active(fake_api) == "True AtZero")
        started = time.monotonic()
        assert await asyncio.to_thread(operator.hear, Word("team", "chat", 1, "gateway")) is Heard.LEADING
        await until(lambda: size(fake_api) == 1)
        print(f"from the gateway's word to the Deployment: {time.monotonic() - started:.3f} s")
        assert rescaled(fake_api)[0].startswith("0 to 1 replicas: 1 request waits")


@pytest.mark.slow
async def test_many_services_are_asked_about_in_turn_and_few_at_a_time(
    fake_api: FakeApi, cluster: Cluster, watched: Settings, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "MOST_PER_SECOND", 40.0)
    for number in range(20):
        make(fake_api, f"chat-{number}")
    async with running(cluster, watched):
        await until(lambda: len(stub.queries) >= 20, 40)
        first = len(stub.times)
        await until(lambda: len(stub.times) >= first + 40, 40)
    taken = stub.times[first + 39] - stub.times[first]
    assert taken >= 0.8, "more queries a second than are allowed"
    assert stub.most <= sampling_module.ASKERS
