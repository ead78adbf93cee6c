"""The data plane without Kubernetes' nodes: real gateway processes and real workers on loopback addresses.

Each worker has an address of its own and the same ports, as pods have. What Kubernetes would do about a worker (restart
it, take it out of the EndpointSlice) the test does itself, or leaves undone as a dead node would.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import ryzanstein_worker
from gateway_process import GatewayProcess, gateway_process
from gateway_world import KEY, NAMESPACE
from kubewatch import CONFIG_MAPS, ENDPOINT_SLICES
from ports import free_port
from processes import children
from ryzanstein_worker.contract import HEALTH_READY, LABEL_SERVICE, ROUTES_CONFIG_MAP, ROUTES_KEY
from stories import Gateway
from worker_process import ONE_THREAD

MODEL = "steady"
DEMO_MODEL = Path(ryzanstein_worker.__file__).parent / "demo_model"
START_SECONDS = 150.0


@dataclass
class Worker:
    """A worker process; `host` is its address."""

    host: str
    health_port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def ranks(self) -> list[int]:
        """Process ids of its ranks."""
        found = []
        for pid in children(self.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
                if b"engine.rank" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def signal(self, number: int) -> None:
        """To the worker and its ranks alike, as to a whole node."""
        for pid in (self.process.pid, *self.ranks):
            os.kill(pid, number)

    async def until_ready(self) -> None:
        """Wait until its probe says that requests may come."""
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(self._is_ready):
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            url = f"http://{self.host}:{self.health_port}{HEALTH_READY}"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def end(self) -> None:
        """Kill what still runs of it."""
        self.process.send_signal(signal.SIGCONT)
        for pid in (*self.ranks, self.process.pid):
            with suppress(ProcessLookupError):  # a rank that its worker has given up meanwhile
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=30)


@dataclass
class LocalCluster:
    """A gateway and the workers that it was told of."""

    gateway: GatewayProcess
    folder: Path
    port: int
    health_port: int
    flags: Sequence[str] = ()
    """More arguments of the workers."""
    workers: list[Worker] = field(default_factory=list)

    @property
    def door(self) -> Gateway:
        """The gateway as clients see it."""
        return Gateway(f"http://127.0.0.1:{self.gateway.port}", KEY)

    def start_worker(self) -> Worker:
        """One more worker; it loads its model meanwhile, and nobody is told of it yet."""
        host = f"127.0.1.{len(self.workers) + 1}"
        log = self.folder / f"{host}.log"
        self.workers.append(Worker(host, self.health_port, self._launch(host, log), log))
        return self.workers[-1]

    def restart(self, worker: Worker) -> None:
        """Start a worker that has ended once more, as a kubelet would."""
        assert worker.process.poll() is not None
        worker.process = self._launch(worker.host, worker.log)

    def _launch(self, host: str, log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "ryzanstein_worker", "serve", "--model", str(DEMO_MODEL)]
        command += ["--served-model-name", MODEL, "--host", host, "--port", str(self.port)]
        command += ["--health-port", str(self.health_port), "--grpc-port", "0", "--dtype", "float32", "--device", "cpu"]
        command += ["--kv-cache-memory-bytes", str(64 << 20), "--drain-seconds", "20", *self.flags]
        with log.open("ab") as output:
            return subprocess.Popen(command, stderr=output, env=os.environ | ONE_THREAD)

    async def announce(self, ready: Iterable[Worker], leaving: Iterable[Worker] = ()) -> None:
        """What the EndpointSlice says from now on."""
        entries = [
            {
                "addresses": [worker.host],
                "conditions": {"ready": stays, "serving": True, "terminating": not stays},
                "targetRef": {"uid": worker.host, "name": f"pod-{worker.host}"},
            }
            for stays, group in ((True, ready), (False, leaving))
            for worker in group
        ]
        labels = {"kubernetes.io/service-name": f"{MODEL}-workers", LABEL_SERVICE: MODEL}
        metadata = {"name": f"{MODEL}-workers-a", "namespace": NAMESPACE, "labels": labels}
        endpoint_slice = {"metadata": metadata, "addressType": "IPv4", "endpoints": entries, "ports": []}
        await self.gateway.kube.put(ENDPOINT_SLICES, endpoint_slice)

    async def until_known(self) -> None:
        """Wait until the gateway has heard of the model and of replicas, in each of its processes."""
        async with asyncio.timeout(START_SECONDS):
            heard = 0
            while heard < 10 * len(self.gateway.members):  # each process takes its share of new connections
                async with self.gateway.client() as client:
                    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
                    answer = await client.post("/v1/completions", json=body)
                heard = heard + 1 if answer.status_code == 200 else 0
                await asyncio.sleep(0 if heard else 0.05)

    async def _route(self) -> None:
        row = {"model": MODEL, "namespace": NAMESPACE, "service": f"{MODEL}-workers", "port": self.port}
        routes = {ROUTES_KEY: json.dumps({"version": 1, "models": [row | {"healthPort": self.health_port}]})}
        metadata = {"name": ROUTES_CONFIG_MAP, "namespace": "ryzanstein"}
        await self.gateway.kube.put(CONFIG_MAPS, {"metadata": metadata, "data": routes})


@asynccontextmanager
async def local_cluster(
    folder: Path, *, workers: int = 2, flags: Sequence[str] = (), **environ: str
) -> AsyncIterator[LocalCluster]:
    """A gateway (`environ` adds to its environment) in front of so many ready workers (started with `flags`, too)."""
    async with gateway_process(folder, replicas=0, wait=True, **environ) as gateway:
        cluster = LocalCluster(gateway, folder, free_port(), free_port(), flags)
        try:
            for _ in range(workers):
                cluster.start_worker()
            await asyncio.gather(*(worker.until_ready() for worker in cluster.workers))
            await cluster._route()
            await cluster.announce(cluster.workers)
            await cluster.until_known()
            yield cluster
        finally:
            for worker in cluster.workers:
                if worker.process.poll() is None:
                    worker.end()
