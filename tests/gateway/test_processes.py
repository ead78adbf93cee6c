"""Several processes behind one port: one may die or hang, the others go on; the end is everybody's drain."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from gateway_process import MODEL, GatewayProcess, gateway_process
from processes import is_running, until
from replica import event_stream
from ryzanstein_gateway.cpus import usable_cpus
from ryzanstein_gateway.exposition import families, merged
from ryzanstein_gateway.member import Report
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.processes import HOPELESS_STARTS, Parent, Slot, restart_pause, why_not_ready
from ryzanstein_gateway.settings import Settings
from ryzanstein_worker.contract import HEALTH_LIVE, HEALTH_READY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # starts many processes, one after another

ASK: dict[str, Any] = {"model": MODEL, "messages": [], "stream": True}
REQUESTS = f'ryzanstein_gateway_requests_total{{code="200",model="{MODEL}",protocol="http"}}'
IN_FLIGHT = f'ryzanstein_gateway_requests_in_flight{{model="{MODEL}"}}'
READY = "ryzanstein_gateway_processes_ready"
RESTARTS = "ryzanstein_gateway_process_restarts_total"
LOST = "ryzanstein_gateway_requests_lost_total"
SECONDS = 40.0
"""When to give up waiting, for the start of a process above all. No promise."""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """Two processes, both ready. Their drain is longer than any test takes."""
    environ: dict[str, Any] = {"RYZANSTEIN_GATEWAY_PROCESSES": "2", "RYZANSTEIN_DRAIN_SECONDS": "60"}
    async with gateway_process(tmp_path, **environ) as one:
        await one.until_metric(READY, 2, SECONDS)
        yield one


async def ask(gateway: GatewayProcess) -> httpx.Response:
    """One request over a connection of its own."""
    async with gateway.client() as client:
        return await client.post("/v1/chat/completions", json=ASK | {"stream": False})


class Streams:
    """Streams that have begun, each over a connection of its own, and wait for `release`."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._replica = gateway.replicas[0]
        self._go_on = asyncio.Event()
        self._begun = 0
        self._replica.answer = self._answer
        self.tasks: list[asyncio.Task[bytes]] = []

    async def begin(self, count: int) -> None:
        """Begin streams and wait until the first token of each is there."""
        self.tasks = [asyncio.create_task(self._read()) for _ in range(count)]
        await until(lambda: self._begun == count, SECONDS, "every stream has begun")

    async def release(self) -> list[bytes]:
        """Let them run to their ends."""
        self._go_on.set()
        return await asyncio.wait_for(asyncio.gather(*self.tasks), SECONDS)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(self._replica.piece(MODEL, 0))
        await self._go_on.wait()
        await response.write(self._replica.piece(MODEL, 1) + b"data: [DONE]\n\n")
        return response

    async def _read(self) -> bytes:
        got = b""
        async with self._gateway.client() as client, client.stream("POST", "/v1/chat/completions", json=ASK) as reply:
            try:
                async for piece in reply.aiter_raw():
                    self._begun += not got
                    got += piece
            except httpx.TransportError:
                got += b"<broken>"
        return got


async def test_a_killed_process_takes_only_its_own_streams_and_is_replaced(gateway: GatewayProcess) -> None:
    streams = Streams(gateway)
    await streams.begin(16)
    assert (await gateway.metrics())[IN_FLIGHT] == 16, "the sum over both processes"
    first, second = gateway.members
    os.kill(first, signal.SIGKILL)
    await until(lambda: any(task.done() for task in streams.tasks), SECONDS, "its streams have ended")
    assert (await gateway.get(HEALTH_READY)).status_code == 200, "the other takes requests"
    assert (await gateway.get(HEALTH_LIVE)).status_code == 200
    await gateway.until_metric(RESTARTS, 1, SECONDS)
    ends = await streams.release()
    broken = [end for end in ends if end.endswith(b"<broken>")]
    assert 0 < len(broken) < 16, "both had streams"
    assert all(end.endswith(b"data: [DONE]\n\n") for end in ends if end not in broken)
    await gateway.until_metric(READY, 2, SECONDS)
    members = gateway.members
    assert second in members
    assert first not in members
    # A process counts a request's end a little after its client has read it.
    await gateway.until_metric(REQUESTS, 16 - len(broken), SECONDS)
    await gateway.until_metric(IN_FLIGHT, 0, SECONDS)  # the dead process' part is gone
    assert (await gateway.metrics())[LOST] == len(broken)


async def check_over_grpc(gateway: GatewayProcess) -> bool:
    """One call over a connection of its own."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}", options=own) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def until_replaced(gateway: GatewayProcess, pid: int) -> None:
    """Wait until another is ready in its place. First the process: how the dead one was is shown until it is reaped."""
    await until(lambda: pid not in gateway.members and len(gateway.members) == 2, SECONDS, "it is replaced")
    await gateway.until_metric(READY, 2, SECONDS)


async def test_requests_go_on_and_counts_never_fall_while_processes_are_killed(gateway: GatewayProcess) -> None:
    counts = [0.0]
    done = 0
    for _ in range(2):
        victim = gateway.members[0]
        for number in range(20):
            if number == 5:
                await gateway.until_metric(REQUESTS, done, SECONDS)  # what it had not counted yet would be lost
                os.kill(victim, signal.SIGKILL)
                await until(lambda pid=victim: not is_running(pid), SECONDS, "it is dead")  # type: ignore[misc]
            assert (await ask(gateway)).status_code == 200
            assert await check_over_grpc(gateway), "gRPC shares its port too"
            done += 1
            counts.append((await gateway.metrics()).get(REQUESTS, 0))
        await until_replaced(gateway, victim)
    assert counts == sorted(counts)
    await gateway.until_metric(REQUESTS, done, SECONDS)  # what a killed process had counted is not lost


async def test_one_that_hangs_is_replaced_and_all_end_with_their_parent(tmp_path: Path) -> None:
    # Long enough that one which only waits for a CPU is not taken for stuck.
    environ: dict[str, Any] = {"RYZANSTEIN_GATEWAY_PROCESSES": "2", "RYZANSTEIN_GATEWAY_STUCK_SECONDS": "6"}
    async with gateway_process(tmp_path, **environ) as gateway:
        await gateway.until_metric(READY, 2, SECONDS)
        for _ in range(24):
            assert (await ask(gateway)).status_code == 200

        def served() -> set[int]:
            return {one["process"] for one in gateway.records if one["logger"] == "ryzanstein_gateway.access"}

        await until(lambda: served() == {0, 1}, SECONDS, "both get connections")
        frozen = gateway.members[0]
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: not is_running(frozen), SECONDS, "the parent kills what has fallen silent")
        await until_replaced(gateway, frozen)
        assert (await ask(gateway)).status_code == 200
        members = gateway.members
        gateway.process.kill()
        await gateway.process.wait()
        await until(lambda: not any(is_running(pid) for pid in members), SECONDS, "no member lives on unseen")


async def until_deaf(port: int) -> None:
    """Wait until nobody listens."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.transport.abort()
            await asyncio.sleep(0.05)


async def test_sigterm_is_not_ready_at_once_lets_every_stream_end_and_ends_all(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    streams = Streams(gateway)
    await streams.begin(8)
    members = gateway.members
    gateway.process.send_signal(signal.SIGTERM)
    await until(lambda: any("draining" in one["message"] for one in gateway.records), SECONDS, "the drain has begun")
    assert (await gateway.get(HEALTH_READY)).text == "draining\n"
    await until_deaf(gateway.port)  # the grace is over
    with pytest.raises(httpx.ConnectError):
        await ask(gateway)
    assert not any(task.done() for task in streams.tasks)
    for end in await streams.release():
        assert end.endswith(b"data: [DONE]\n\n")
    # No second signal: one that comes while a process ends is its death.
    assert await asyncio.wait_for(gateway.process.wait(), SECONDS) == 0
    assert not any(is_running(pid) for pid in members)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("ryzanstein-")], "the shared folder is gone"


async def test_a_member_listens_only_once_it_knows_the_routes(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, wait=False, RYZANSTEIN_GATEWAY_PROCESSES="2") as gateway:
        gateway.kube.broken_status = 503
        await until(lambda: len(gateway.kube.requests) >= 4, 60, "both have asked in vain")
        assert (await gateway.get(HEALTH_READY)).status_code == 503
        with pytest.raises(httpx.ConnectError):
            await ask(gateway)
        gateway.kube.broken_status = 0
        await gateway.until_ready()
        assert (await ask(gateway)).status_code == 200


async def test_a_parent_none_of_whose_processes_lives_gives_up_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lives: list[int] = []

    async def die(parent: Parent, slot: Slot) -> int:
        lives.append(slot.number)
        await asyncio.sleep(0)
        return 3

    monkeypatch.setattr(Parent, "_live", die)
    monkeypatch.setattr("ryzanstein_gateway.processes.restart_pause", lambda failures: 0.0)
    settings = Settings(
        namespace="rz", watch_namespaces=("rz",), host="127.0.0.1", port=0, health_port=0, processes=2
    )  # fmt: skip
    async with asyncio.timeout(30):
        assert await Parent(settings).run(asyncio.Event()) == 1
    assert {lives.count(0), lives.count(1)} <= {HOPELESS_STARTS, HOPELESS_STARTS + 1}
    assert "giving up" in caplog.text


def test_the_parent_loads_nothing_that_serves() -> None:
    serving = {"aiohttp", "grpc", "kubernetes", "uvicorn", "opentelemetry"}
    code = f"import sys, ryzanstein_gateway.__main__; print(*({serving} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0), (1, 0), (2, 0.5), (3, 1), (4, 2), (9, 30), (1000, 30)])
def test_the_pause_before_a_restart_doubles_to_a_bound(failures: int, seconds: float) -> None:
    assert restart_pause(failures) == seconds


@pytest.mark.parametrize(
    ("reports", "draining", "reason"),
    [
        ([Report(""), Report("")], False, ""),
        ([Report(""), None], False, ""),
        ([Report(""), Report("no routes")], False, ""),
        ([Report("no routes"), None], False, "a process is starting, no routes"),
        ([None, None], False, "a process is starting"),
        ([Report(""), Report("")], True, "draining"),
    ],
)
def test_one_member_that_takes_requests_makes_the_gateway_ready(
    reports: list[Report | None], draining: bool, reason: str
) -> None:
    assert why_not_ready(reports, draining=draining) == reason


class Shown(Collector):
    """A view with fixed gauges."""

    def __init__(self, **values: float) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """One gauge with a label, one without."""
        gauge = GaugeMetricFamily("endpoints", "Ready.", labels=["model"])
        for model, value in self._values.items():
            gauge.add_metric([model], value)
        return [gauge, GaugeMetricFamily("stale", "Old.", value=max(self._values.values()))]


def test_what_all_processes_see_alike_is_shown_once_at_its_worst() -> None:
    metrics = merged([families(Shown(a=1, b=2)), families(Shown(a=3))])
    samples = {(one.name, tuple(one.labels.values())): one.value for metric in metrics for one in metric.samples}
    assert samples == {("endpoints", ("a",)): 3, ("endpoints", ("b",)): 2, ("stale", ()): 3}


def test_every_gauge_of_a_process_is_a_part_of_the_sum_of_those_that_live() -> None:
    wrappers = [one for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase)]
    assert wrappers
    modes = {one._name: one._multiprocess_mode for one in wrappers if one._type == "gauge"}  # type: ignore[attr-defined]
    assert set(modes.values()) == {"livesum"}, modes


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_cpus_are_what_affinity_and_quota_allow(tmp_path: Path, files: dict[str, str], cpus: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))
