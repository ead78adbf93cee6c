"""A whole gateway as a process, `python -m ryzanstein_gateway`, with an API server and replicas on loopback."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway_world import KEY, NAMESPACE, write_key
from kubewatch import CONFIG_MAPS, ENDPOINT_SLICES, KubeWatch, kube_watch
from ports import free_port
from processes import children
from replica import Replica, replica
from ryzanstein_worker.contract import HEALTH_READY, LABEL_SERVICE, METRICS, ROUTES_CONFIG_MAP, ROUTES_KEY

MODEL = "demo"
START_SECONDS = 100.0


@dataclass
class GatewayProcess:
    """A running gateway, its parent process and what it said so far."""

    process: asyncio.subprocess.Process
    kube: KubeWatch
    replicas: list[Replica]
    port: int
    health_port: int
    grpc_port: int
    records: list[dict[str, Any]] = field(default_factory=list)
    """Its log."""

    @property
    def members(self) -> list[int]:
        """Process ids of the members."""
        return children(self.process.pid)

    def said(self, *levels: str) -> str:
        """Its log of these levels, a line each."""
        return "\n".join(json.dumps(record) for record in self.records if record.get("level") in levels)

    def client(self, *, scheme: str = "http", **options: Any) -> httpx.AsyncClient:
        """A client with the right key, and connections of its own."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=f"{scheme}://127.0.0.1:{self.port}", headers=headers, timeout=40, **options)

    async def get(self, path: str) -> httpx.Response:
        """GET of one path of the health port."""
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{self.health_port}{path}", timeout=30)

    async def metrics(self) -> dict[str, float]:
        """Every line of /metrics."""
        lines = (await self.get(METRICS)).text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    async def until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the readiness probe says yes."""
        async with asyncio.timeout(seconds):
            while True:
                assert self.process.returncode is None, self.records
                try:
                    if (await self.get(HEALTH_READY)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def until_metric(self, name: str, value: float, seconds: float = START_SECONDS) -> None:
        """Wait until a metric has a value, no longer than the deadline."""
        async with asyncio.timeout(seconds):
            while (await self.metrics()).get(name) != value:
                await asyncio.sleep(0.05)

    async def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), seconds)


@asynccontextmanager
async def gateway_process(
    tmp_path: Path, *, replicas: int = 1, wait: bool = True, **environ: str
) -> AsyncIterator[GatewayProcess]:
    """A gateway whose route MODEL leads to the replicas; `environ` adds to its environment."""
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(kube_watch())
        kube.write_kubeconfig(tmp_path / "kubeconfig")
        write_key(tmp_path / "keys", "default", "key", KEY)
        upstream = free_port()
        ones = [await stack.enter_async_context(replica(f"127.0.0.{2 + n}", upstream)) for n in range(replicas)]
        await announce(kube, [one.host for one in ones], upstream)
        port, health, grpc_port = free_port(), free_port(), free_port()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ryzanstein_gateway"),
            env={name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
            | {
                "KUBECONFIG": str(tmp_path / "kubeconfig"),
                "RYZANSTEIN_NAMESPACE": "ryzanstein",
                "RYZANSTEIN_WATCH_NAMESPACES": NAMESPACE,
                "RYZANSTEIN_KEYSETS_DIR": str(tmp_path / "keys"),
                "RYZANSTEIN_GATEWAY_HOST": "127.0.0.1",
                "RYZANSTEIN_GATEWAY_PORT": str(port),
                "RYZANSTEIN_GATEWAY_HEALTH_PORT": str(health),
                "RYZANSTEIN_GATEWAY_GRPC_PORT": str(grpc_port),
                "RYZANSTEIN_DRAIN_GRACE_SECONDS": "0.2",
                "RYZANSTEIN_DRAIN_SECONDS": "10",
                "TMPDIR": str(tmp_path),
            }
            | environ,
            stdout=asyncio.subprocess.PIPE,
        )
        one = GatewayProcess(process, kube, ones, port, health, grpc_port)
        reader = asyncio.create_task(_read(one))
        stack.push_async_callback(_end, one, reader)
        if wait:
            await one.until_ready()
        yield one


async def announce(
    kube: KubeWatch, hosts: Iterable[str], port: int, health_port: int | None = None, *, model: str = MODEL
) -> None:
    """Put the route and the endpoints where the gateway watches."""
    row = {"model": model, "namespace": NAMESPACE, "service": f"{model}-workers", "port": port, "keySets": []}
    row |= {} if health_port is None else {"healthPort": health_port}
    labels = {"kubernetes.io/service-name": f"{model}-workers", LABEL_SERVICE: model}
    entries = [
        {
            "addresses": [host],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"uid": host, "name": f"pod-{host}"},
        }
        for host in hosts
    ]
    metadata = {"name": f"{model}-workers-a", "namespace": NAMESPACE, "labels": labels}
    await kube.put(ENDPOINT_SLICES, {"metadata": metadata, "addressType": "IPv4", "endpoints": entries, "ports": []})
    routes = {ROUTES_KEY: json.dumps({"version": 1, "models": [row]})}
    await kube.put(CONFIG_MAPS, {"metadata": {"name": ROUTES_CONFIG_MAP, "namespace": "ryzanstein"}, "data": routes})


async def _read(one: GatewayProcess) -> None:
    assert one.process.stdout is not None
    async for line in one.process.stdout:
        one.records.append(json.loads(line))


async def _end(one: GatewayProcess, reader: "asyncio.Task[None]") -> None:
    members: list[int] = []
    if one.process.returncode is None:
        with suppress(FileNotFoundError):  # it has ended just now
            members = one.members
    if one.process.returncode is None:
        with suppress(ProcessLookupError):
            one.process.kill()
    await one.process.wait()
    for pid in members:  # members that outlive their parent drain, but no test has to wait for it
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await reader
