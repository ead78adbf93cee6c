"""Every query of every panel gets data from a real Prometheus that scrapes a real worker, gateway and operator.

A worker of two ranks and one of one rank are under load through two gateway processes, and the second is killed in the
middle of it; the operator sizes their service by asking the same Prometheus. Only Kubernetes' nodes are missing, so no
replica is ready in the operator's eyes.
"""

import asyncio
import contextlib
import datetime
import json
import re
import secrets
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import panels
from apiserver import ADMIN, ApiServer, running
from gateway_world import NAMESPACE
from local_cluster import MODEL, LocalCluster, local_cluster
from operator_process import OperatorProcess
from operator_rights import install_crd
from otlp import collector
from panels import Asked, ask
from ports import free_port
from prometheus_server import Prometheus, Target, prometheus
from registries import families
from rules import RULES, alerts, records
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_worker.contract import JOB_GATEWAY, JOB_OPERATOR, JOB_WORKER

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(900)]

RELEASE = "release"
CROWD_SECONDS = 15.0
LOSS_SECONDS = 240.0  # those of the killed one may wait until one of the other has ended
GAPS = r"^ryzanstein_gateway_migration_gap_seconds_count(\{.*\})? [1-9]"
SCRAPED_SECONDS = 60.0
LIMITS = ("--max-num-seqs", "4", "--max-queued-requests", "4")
TARGETS = [
    {"metric": "WaitingRequests", "value": 4},
    {"metric": "KVCacheUsagePercent", "value": 80},
    {"metric": "TimeToFirstTokenMillis", "value": 2000},
    {"metric": "TokensPerSecond", "value": 1000},
]


class World:
    """What runs, and where Prometheus finds it. began, at: when the load did, and when it had just ended, in seconds
    since 1970. What is asked for the time between does not hang on how long it takes to ask."""

    def __init__(self, server: Prometheus, targets: list[Target], began: float, at: float) -> None:
        self.server, self.targets, self.began, self.at = server, targets, began, at

    def ask(self) -> Asked:
        """What every panel asks, of that time."""
        return ask(self.server, at=self.at, seconds=self.at - self.began)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("panels")
    key, asked_at = folder / "demand-key", free_port()
    (folder / "data").mkdir()
    key.write_text(secrets.token_hex(16))
    async with contextlib.AsyncExitStack() as stack:
        api = stack.enter_context(running(folder / "apiserver"))
        operator = start_operator(api, folder, key, asked_at)
        stack.callback(operator.kill)
        traces = stack.enter_context(collector())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in traces.environment.items():
            patch.setenv(name, value)
        cluster = await stack.enter_async_context(
            local_cluster(
                folder / "data",
                workers=1,
                flags=("--tensor-parallel-size", "2", *LIMITS),
                RYZANSTEIN_GATEWAY_PROCESSES="2",
                RYZANSTEIN_OPERATOR_URL=f"http://127.0.0.1:{operator.demand_port}",
                RYZANSTEIN_DEMAND_KEY_FILE=str(key),
            )
        )
        cluster.flags = LIMITS
        await cluster.start_worker().until_ready()
        await cluster.announce(cluster.workers)
        targets = [
            Target(JOB_OPERATOR, f"127.0.0.1:{operator.port}", RELEASE, "operator-0"),
            Target(JOB_GATEWAY, f"127.0.0.1:{cluster.gateway.health_port}", RELEASE, "gateway-0"),
            *(
                Target(JOB_WORKER, f"{worker.host}:{worker.health_port}", NAMESPACE, f"{MODEL}-{number}", MODEL)
                for number, worker in enumerate(cluster.workers)
            ),
        ]
        server = stack.enter_context(prometheus(folder / "prometheus", targets, port=asked_at, rules=RULES))
        await asyncio.to_thread(server.until_up)
        began = time.time()
        await load(cluster)
        await asyncio.to_thread(until_scraped, server, targets[:3])
        yield World(server, targets, began, time.time())


def start_operator(api: ApiServer, folder: Path, key: Path, prometheus_port: int) -> OperatorProcess:
    """An operator with one service that is to follow its load."""
    install_crd(api)
    for namespace in (RELEASE, NAMESPACE):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    spec = {"model": {"uri": "demo://"}, "autoscaling": {"maxReplicas": 3, "targets": TARGETS}}
    body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": MODEL}, "spec": spec}
    api.request("POST", SERVICES.path(NAMESPACE), body)
    environment = {
        "KUBECONFIG": str(api.kubeconfig(ADMIN)),
        "RYZANSTEIN_NAMESPACE": RELEASE,
        "RYZANSTEIN_WATCH_NAMESPACES": NAMESPACE,
        "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
        "RYZANSTEIN_POD_NAME": "operator-0",
        "RYZANSTEIN_DEMAND_KEY_FILE": str(key),
        "RYZANSTEIN_PROMETHEUS_URL": f"http://127.0.0.1:{prometheus_port}",
    }
    return OperatorProcess(environment, folder / "operator.log")


async def load(cluster: LocalCluster) -> None:
    """A request without a key; a crowd; the last worker is killed with streams in it; the crowd again."""
    async with cluster.gateway.client() as stranger:
        answer = await stranger.get("/v1/models", headers={"authorization": "Bearer none"})
        assert answer.status_code == 401
    await crowd(cluster)
    await lose_a_replica(cluster)
    await crowd(cluster)


async def crowd(cluster: LocalCluster) -> None:
    """More streams at once than the replicas take, so that some wait at the gateway."""
    end = time.monotonic() + CROWD_SECONDS
    statuses: list[int] = []

    async def client(number: int) -> None:
        async with cluster.gateway.client() as http:
            while time.monotonic() < end:
                body = asking(number) | {"max_tokens": 24}
                # In the second crowd the gateway may still be learning that a replica is gone.
                with contextlib.suppress(httpx.TransportError):
                    statuses.append((await http.post("/v1/completions", json=body)).status_code)

    await asyncio.gather(*(client(number) for number in range(20)))
    assert statuses.count(200) > 10, statuses


async def lose_a_replica(cluster: LocalCluster) -> None:
    """Kill the last worker while streams run that last long, no more of them than the other has room for: those of the
    killed one go on there, each after a gap. It is over as soon as a gap was counted."""
    begun = [asyncio.Event() for _ in range(6)]

    async def client(number: int) -> None:
        async with cluster.gateway.client() as http:
            body = asking(number) | {"max_tokens": 900}
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    begun[number].set()

    clients = [asyncio.create_task(client(number)) for number in range(len(begun))]
    try:
        async with asyncio.timeout(LOSS_SECONDS):
            await asyncio.gather(*(one.wait() for one in begun))
            cluster.workers[-1].signal(signal.SIGKILL)
            while not re.search(GAPS, (await cluster.gateway.get("/metrics")).text, re.MULTILINE):
                await asyncio.sleep(0.1)
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def asking(number: int) -> dict[str, Any]:
    """One of several streams."""
    text = f"One of several clients, number {number}, asks for the name of"
    return {"model": MODEL, "prompt": text, "ignore_eos": True, "stream": True}


def until_scraped(server: Prometheus, targets: list[Target]) -> None:
    """Wait until what these counted last is known: each was scraped once more, and the rules were evaluated since."""
    ended = time.time() + 1  # the members of a gateway tell each other a little later
    deadline = time.monotonic() + SCRAPED_SECONDS
    while (known := oldest_scrape(server, targets)) <= ended:
        assert time.monotonic() < deadline, server.api("targets")["activeTargets"]
        time.sleep(0.2)
    while min(at_of(group["lastEvaluation"]) for group in server.api("rules")["groups"]) <= known:
        assert time.monotonic() < deadline, server.api("rules")["groups"]
        time.sleep(0.2)


def oldest_scrape(server: Prometheus, targets: list[Target]) -> float:
    """When the one of these was scraped whose last good scrape was the longest ago."""
    live = server.api("targets")["activeTargets"]
    scraped = {one["labels"]["pod"]: at_of(one["lastScrape"]) for one in live if one["health"] == "up"}
    return min(scraped.get(target.pod, 0.0) for target in targets)


def at_of(text: str) -> float:
    """A time as Prometheus writes it (RFC 3339, with nanoseconds), in seconds since 1970."""
    return datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()


@pytest.fixture(scope="module")
def asked(world: World) -> Asked:
    return world.ask()


def test_every_query_gets_data_from_a_system_under_load(asked: Asked) -> None:
    assert asked.missing == (), "\n".join(map(str, asked.missing))
    assert asked.answered > 200


def test_what_may_have_no_data_is_what_a_system_on_cpu_and_without_nodes_does_not_have(asked: Asked) -> None:
    assert {one.quiet for one in asked.findings} <= {
        "replicas run on CPU",
        "the pod runs on CPU",
        "all nodes are well",
        "nothing is wrong, or Prometheus has not loaded the rules",
        "the gateway ends no TLS",
        "every call succeeded at once",
        "every query brought a number",
        "nothing has failed yet",
    }


def test_what_gets_no_data_is_named(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in panels.FOLDER.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text().replace("ryzanstein_kv_blocks_free", "ryzanstein_gone"))
    monkeypatch.setattr(panels, "FOLDER", tmp_path)
    (missing,) = world.ask().missing
    assert (missing.dashboard, missing.panel) == ("ryzanstein-worker", "Blocks")
    assert "ryzanstein_gone" in missing.expr


def test_every_rule_can_be_evaluated_and_what_is_recorded_is_there(world: World) -> None:
    loaded = [rule for group in world.server.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {*alerts(), *records()}
    assert {rule["name"]: rule["lastError"] for rule in loaded if rule["health"] != "ok"} == {}
    empty = [name for name in records() if not world.server.api("query", query=name, time=str(world.at))["result"]]
    assert empty == []


def test_every_metric_of_a_running_system_is_documented(world: World) -> None:
    documented = {name for family in families() for name in (family.name, *family.series)}
    for target in world.targets[:3]:  # the last has been killed
        with urllib.request.urlopen(f"http://{target.address}/metrics", timeout=60) as answer:
            shown = set(re.findall(r"^# TYPE (\S+) ", answer.read().decode(), re.MULTILINE))
        shown = {name for name in shown if name.removesuffix("_created") == name}  # when a series began
        assert len(shown) > 15, target
        assert shown <= documented, f"{target.job}: {shown - documented}"


def test_latencies_have_exemplars_that_name_traces(world: World) -> None:
    for metric in ("ryzanstein_gateway_request_duration_seconds", "ryzanstein_time_to_first_token_seconds"):
        span = {"start": str(world.began), "end": str(world.at)}
        found = world.server.api("query_exemplars", query=f"{metric}_bucket", **span)
        names = [one["labels"] for series in found for one in series["exemplars"]]
        assert names, metric
        assert all(re.fullmatch("[0-9a-f]{32}", one["trace_id"]) for one in names), json.dumps(names)
