"""Starts what `bench.gateway` compares: our gateway, nginx, LiteLLM's proxy, all before the same replica.

Knows each one's program, configuration and how it says that it is ready; knows nothing of what is measured. Each runs
pinned to one core, in a session of its own that ends with the context.
"""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.kubewatch import CONFIG_MAPS, ENDPOINT_SLICES, kube_watch

from ryzanstein_worker.contract import LABEL_SERVICE, ROUTES_CONFIG_MAP, ROUTES_KEY

KEY: Final = "sk-bench-0123456789"
MODEL: Final = "bench"
_NAMESPACE: Final = "models"
_START_SECONDS: Final = 120.0

LITELLM_VERSION: Final = "1.103.2"
LITELLM_BEFORE: Final = "2026-10-01"
"""Nothing younger is installed: releases of March 2026 and a later one carried malware and were withdrawn."""
CACHE: Final = Path(os.environ.get("RYZANSTEIN_CACHE") or Path.home() / ".cache" / "ryzanstein")

_NGINX: Final = """\
worker_processes 1;
worker_rlimit_nofile {files};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_timeout 65s; keepalive_requests 1000000;
  upstream replicas {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 700s;
    }}
  }}
}}
"""

_LITELLM: Final = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
litellm_settings: {{request_timeout: 700, set_verbose: false, num_retries: 0}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True)
class Running:
    """A server that has begun to answer. `pid` leads its process group."""

    name: str
    port: int
    pid: int


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def pinned(core: int, *command: str) -> list[str]:
    """The command, held to one core."""
    return ["taskset", "-c", str(core), *command]


@asynccontextmanager
async def started(
    name: str, command: Sequence[str], port: int, log: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """A process group, from the moment its port answers. Raises RuntimeError with its log's end when it does not."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=environ, start_new_session=True
        )
    try:
        await _answers(name, process, port, log)
        yield Running(name, port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _answers(name: str, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            late = asyncio.get_running_loop().time() > deadline
            if late or process.returncode is not None:
                said = await asyncio.to_thread(log.read_text, errors="replace")
                raise RuntimeError(f"{name} did not start:\n{said[-3000:]}") from None
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Upstream(Running):
    """The replica."""

    health_port: int


@asynccontextmanager
async def upstream(folder: Path, core: int) -> AsyncIterator[Upstream]:
    """The replica behind all of them."""
    port, health = free_port(), free_port()
    command = pinned(core, sys.executable, "-m", "bench.gateway_upstream", "127.0.0.1", str(port), str(health))
    async with started("upstream", command, port, folder / "upstream.log") as running:
        yield Upstream(running.name, port, running.pid, health)


@asynccontextmanager
async def nginx(folder: Path, core: int, upstream_port: int) -> AsyncIterator[Running]:
    """Debian's nginx with one worker: a plain reverse proxy that buffers nothing and keeps connections alive."""
    port = free_port()
    home = folder / "nginx"
    home.mkdir()
    config = home / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=home, port=port, upstream=upstream_port, files=os_files(), connections=os_files() - 64)
    )
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None
    command = pinned(core, program, "-p", str(home), "-c", str(config), "-e", str(home / "error.log"))
    async with started("nginx", command, port, folder / "nginx.log") as running:
        yield running


@asynccontextmanager
async def litellm(folder: Path, core: int, upstream_port: int) -> AsyncIterator[Running]:
    """LiteLLM's proxy, one worker process, a master key, no database, its logs at ERROR."""
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(model=MODEL, upstream=upstream_port, key=KEY))
    program = str(litellm_home() / "bin" / "litellm")
    arguments = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    environ = {
        "PATH": f"{litellm_home()}/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # nothing is fetched from the network
    }
    command = pinned(core, program, *arguments, "--telemetry", "False")
    async with started("LiteLLM", command, port, folder / "litellm.log", environ) as running:
        yield running


def litellm_home() -> Path:
    """Its virtual environment."""
    return CACHE / f"litellm-{LITELLM_VERSION}"


def os_files() -> int:
    """How many files a process may open here."""
    return int(subprocess.run(["bash", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True).stdout)


@asynccontextmanager
async def gateway(folder: Path, core: int, replica: Upstream, processes: int = 1) -> AsyncIterator[Running]:
    """Ours, as the chart runs it: the real process, keys required, routes and endpoints from a Kubernetes API."""
    port, health = free_port(), free_port()
    folder = folder / f"gateway-{processes}"
    key_set = folder / "keysets" / "default"
    key_set.mkdir(parents=True, exist_ok=True)
    (key_set / "bench").write_text(hashlib.sha256(KEY.encode()).hexdigest() + "\n")
    async with kube_watch() as kube:
        kubeconfig = folder / "kubeconfig"
        kube.write_kubeconfig(kubeconfig)
        route: dict[str, object] = {"model": MODEL, "namespace": _NAMESPACE, "service": MODEL, "keySets": ["default"]}
        route |= {"port": replica.port, "healthPort": replica.health_port}
        routes = {"metadata": {"name": ROUTES_CONFIG_MAP, "namespace": "ryzanstein"}}
        await kube.put(CONFIG_MAPS, routes | {"data": {ROUTES_KEY: json.dumps({"version": 1, "models": [route]})}})
        labels = {"kubernetes.io/service-name": MODEL, LABEL_SERVICE: MODEL}
        ready: dict[str, object] = {
            "addresses": ["127.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
        }
        ready |= {"targetRef": {"uid": "1", "name": "bench-0"}}
        slices = {"metadata": {"name": "bench-abcde", "namespace": _NAMESPACE, "labels": labels}}
        await kube.put(ENDPOINT_SLICES, slices | {"addressType": "IPv4", "endpoints": [ready], "ports": []})
        environ = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "RYZANSTEIN_NAMESPACE": "ryzanstein",
            "RYZANSTEIN_WATCH_NAMESPACES": _NAMESPACE,
            "RYZANSTEIN_KEYSETS_DIR": str(folder / "keysets"),
            "RYZANSTEIN_GATEWAY_HOST": "127.0.0.1",
            "RYZANSTEIN_GATEWAY_PORT": str(port),
            "RYZANSTEIN_GATEWAY_HEALTH_PORT": str(health),
            "RYZANSTEIN_GATEWAY_GRPC_PORT": str(free_port()),
            "RYZANSTEIN_GATEWAY_PROCESSES": str(processes),
            "RYZANSTEIN_MAX_CONNECTIONS": "40000",
            "RYZANSTEIN_DRAIN_GRACE_SECONDS": "0.1",
            "RYZANSTEIN_DRAIN_SECONDS": "1",
        }
        command = pinned(core, sys.executable, "-m", "ryzanstein_gateway")
        async with started("ryzanstein", command, health, folder / "gateway.log", environ) as running:
            await _ready(health)
            yield Running(running.name, port, running.pid)


async def _ready(health_port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", health_port)
            writer.write(b"GET /health/ready HTTP/1.0\r\n\r\n")
            reply = await reader.read()
            writer.close()
            if b" 200 " in reply[:20]:
                return
            await asyncio.sleep(0.1)
