"""A gateway with real neighbours: an API server to watch and replicas to send to, all on loopback."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from kubewatch import CONFIG_MAPS, ENDPOINT_SLICES, KubeWatch, kube_watch
from ports import free_port
from replica import Replica, replica
from ryzanstein_gateway.server import Gateway
from ryzanstein_gateway.settings import Settings
from ryzanstein_worker.contract import LABEL_SERVICE, ROUTES_CONFIG_MAP, ROUTES_KEY

NAMESPACE = "models"
KEY = "sk-team-a"


LONGEST_TURN = 0.1
"""Seconds; a turn of the event loop that took longer has stood still with its machine."""
CLIENT_SECONDS = 30.0


async def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for a condition, no longer than the deadline. Everybody here shares one event loop, so time in which it
    stood still was nobody's to use and does not count."""
    loop = asyncio.get_running_loop()
    waited, last = 0.0, loop.time()
    while not condition():
        assert waited < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)
        now = loop.time()
        waited, last = waited + min(now - last, LONGEST_TURN), now


def write_key(root: Path, key_set: str, entry: str, key: str) -> None:
    """Put a key's hash where the chart mounts it."""
    (root / key_set).mkdir(parents=True, exist_ok=True)
    (root / key_set / entry).write_text(hashlib.sha256(key.encode()).hexdigest() + "\n")


@dataclass
class World:
    """The gateway and everything around it."""

    kube: KubeWatch
    keys: Path
    port: int
    settings: Settings
    stack: AsyncExitStack
    gateway: Gateway
    stop: asyncio.Event
    run: "asyncio.Task[None]"
    client: httpx.AsyncClient
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    hosts: int = 1
    health_port: int = field(default_factory=free_port)

    async def add_replica(self) -> Replica:
        """Start one more replica; nobody is told of it yet."""
        self.hosts += 1
        return await self.stack.enter_async_context(replica(f"127.0.0.{self.hosts}", self.port))

    async def route(
        self, model: str, *, key_sets: Sequence[str] = (), max_model_len: int | None = None, **row: Any
    ) -> None:
        """Put a model into the route table; `row`: more of its fields, as they are called there."""
        self.models[model] = {
            "model": model,
            "namespace": NAMESPACE,
            "service": f"{model.replace('/', '-')}-workers",
            "port": self.port,
            "healthPort": self.health_port,
            "keySets": list(key_sets),
            "maxModelLen": max_model_len,
            **row,
        }
        await self.put_routes(json.dumps({"version": 1, "models": list(self.models.values())}))
        await until(lambda: model in self.gateway._fleet.table.by_model, "the route is known")

    async def put_routes(self, text: str) -> None:
        """Write the ConfigMap as it is."""
        metadata = {"name": ROUTES_CONFIG_MAP, "namespace": self.settings.namespace}
        await self.kube.put(CONFIG_MAPS, {"metadata": metadata, "data": {ROUTES_KEY: text}})

    async def endpoints(
        self, model: str, ready: Sequence[Replica], leaving: Sequence[Replica] = (), *, known: bool = True
    ) -> None:
        """Write the model's EndpointSlice; by default wait until the gateway has it."""
        entries = [_entry(one, ready=True) for one in ready] + [_entry(one, ready=False) for one in leaving]
        service = f"{model.replace('/', '-')}-workers"
        labels = {"kubernetes.io/service-name": service, LABEL_SERVICE: model.replace("/", "-")}
        metadata = {"name": f"{service}-abcde", "namespace": NAMESPACE, "labels": labels}
        await self.kube.put(
            ENDPOINT_SLICES, {"metadata": metadata, "addressType": "IPv4", "endpoints": entries, "ports": []}
        )
        if known:
            want = {(one.host, one in leaving) for one in (*ready, *leaving)}
            await until(lambda: self.seen(model) == want, f"the endpoints {want} are known")

    def seen(self, model: str) -> set[tuple[str, bool]]:
        """Host and whether it is leaving, of each endpoint that the gateway knows."""
        fleet = self.gateway._fleet
        return {(one.host, one.leaving) for one in fleet.endpoints(fleet.table.by_model[model])}

    def forget(self) -> None:
        """Let the gateway forget what it holds against replicas."""
        self.gateway._fleet._replicas.clear()

    def in_flight(self, one: Replica) -> int:
        """Requests that the gateway has at a replica."""
        known = self.gateway._fleet._replicas.get(one.host)
        return len(known.attempts) if known else 0

    async def metric(self, line: str) -> float:
        """The value of one line of /metrics."""
        async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
            text = (await client.get(f"http://127.0.0.1:{self.gateway.health_port}/metrics")).text
        return next((float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.rsplit(" ", 1)[0] == line), 0.0)

    async def probe(self, path: str) -> int:
        """Status of one path of the health port."""
        async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
            return (await client.get(f"http://127.0.0.1:{self.gateway.health_port}{path}")).status_code

    async def ask(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        """POST with the right key."""
        return await self.client.post(path, json=body)


def _entry(one: Replica, *, ready: bool) -> dict[str, Any]:
    return {
        "addresses": [one.host],
        "conditions": {"ready": ready, "serving": True, "terminating": not ready},
        "targetRef": {"uid": one.host, "name": f"pod-{one.host}"},
    }


@asynccontextmanager
async def open_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kube_status: int = 0, **changes: Any
) -> AsyncIterator[World]:
    """A world whose gateway has settings other than the usual. With a `kube_status`, every request of the gateway
    to the API server gets that status, and it is not waited for to become ready."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(kube_watch())
        kube.broken_status = kube_status
        kube.write_kubeconfig(tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        keys = tmp_path / "keysets"
        write_key(keys, "default", "key", KEY)
        usual = Settings(
            namespace="ryzanstein",
            watch_namespaces=(NAMESPACE,),
            keysets_dir=keys,
            host="127.0.0.1",
            port=0,
            health_port=0,
            grpc_port=0,
            drain_grace_seconds=0.05,
            drain_seconds=5,
            connect_timeout_seconds=5,  # a replica that listens must not be missed where the machine stands still
            check_seconds=0.1,
        )
        settings = replace(usual, **changes)
        gateway = Gateway(settings)
        stop = asyncio.Event()
        run = asyncio.create_task(gateway.run(stop))
        stack.push_async_callback(_end, stop, run)
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=CLIENT_SECONDS,
        )
        await stack.enter_async_context(client)
        await until(lambda: run.done() or kube_status > 0 or not gateway.why_not_ready(), "the gateway is ready")
        yield World(kube, keys, free_port(), settings, stack, gateway, stop, run, client)


async def _end(stop: asyncio.Event, run: "asyncio.Task[None]") -> None:
    stop.set()
    async with asyncio.timeout(30):
        await run
