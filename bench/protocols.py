"""The three protocols against one another, in one run: bytes on the wire and CPU time of the server, per token.

    python -m bench.protocols [--rounds 3] [--tokens 400] [--streams 120]

Twice: the gateway before a replica that is no model (what it adds to each token), and a worker with a tiny model, of
which the server's process alone is counted, not its rank. Every figure is of streamed chats, one at a time over one
connection; each protocol in turn, round after round, and the median of each one's ratio to REST is printed. Bytes are
counted by a relay between client and server: HTTP's and HTTP/2's framing is in them, TCP's is not.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import httpx
from bench.gateway_peers import KEY, MODEL, free_port, gateway, upstream
from tests.support.tiny_model import write_tiny_model

from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1.inference_pb2_grpc import InferenceStub
from ryzanstein_worker.contract import CHAT_COMPLETIONS, REALTIME

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0
REST, SOCKET, GRPC = "REST with SSE", "WebSocket", "gRPC"


@dataclass
class Relay:
    """Passes one port's connections on to another and counts the bytes from server to client."""

    port: int
    down: int = 0


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """A relay to a local port."""
    counted = Relay(free_port())

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        try:
            while piece := await reader.read(1 << 16):
                counted.down += len(piece) if down else 0
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        ways = pass_on(reader, up_writer, down=False), pass_on(up_reader, writer, down=True)
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", counted.port)
    try:
        yield counted
    finally:
        server.close()


@dataclass(frozen=True)
class Served:
    """What is measured: its ports, and the process whose CPU time counts."""

    name: str
    port: int
    grpc_port: int
    pid: int
    sockets: bool

    def cpu_seconds(self) -> float:
        """Used so far, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True)
class Cost:
    """Per token."""

    bytes: float
    cpu_microseconds: float


Stream = Callable[[int], Awaitable[int]]
"""Asks for so many tokens; the number of pieces that came."""


def body(tokens: int) -> dict[str, object]:
    """The request, the same for all."""
    message = {"role": "user", "content": "The quick brown fox"}
    return {"model": MODEL, "messages": [message], "max_tokens": tokens, "ignore_eos": True, "user": "pace-0"}


@asynccontextmanager
async def over_rest(port: int) -> AsyncIterator[Stream]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        async def stream(tokens: int) -> int:
            asked = body(tokens) | {"stream": True}
            headers = {"authorization": f"Bearer {KEY}"}
            async with client.stream("POST", CHAT_COMPLETIONS, json=asked, headers=headers) as answer:
                return sum([line.startswith("data: {") async for line in answer.aiter_lines()])

        yield stream


@asynccontextmanager
async def over_socket(port: int) -> AsyncIterator[Stream]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"http://127.0.0.1:{port}{REALTIME}") as one,
    ):

        async def stream(tokens: int) -> int:
            await one.send_json(
                {"type": "create", "id": "x", "kind": "chat", "request": body(tokens) | {"stream": True}}
            )
            pieces = 0
            while (message := json.loads((await one.receive()).data))["type"] == "event":
                pieces += 1
            assert message["type"] == "done", message
            return pieces

        yield stream


@asynccontextmanager
async def over_grpc(port: int) -> AsyncIterator[Stream]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = InferenceStub(channel)

        async def stream(tokens: int) -> int:
            asked = pb.ChatRequest(
                model=MODEL,
                messages=[pb.Message(role=pb.ROLE_USER, content="The quick brown fox")],
                sampling=pb.Sampling(max_tokens=tokens, ignore_eos=True, user="pace-0"),
            )
            call = stub.StreamChat(asked, metadata=(("authorization", f"Bearer {KEY}"),))
            return sum([1 async for _ in call])

        yield stream


async def cost(served: Served, protocol: str, tokens: int, streams: int) -> Cost:
    """One measurement."""
    ways = {REST: over_rest, SOCKET: over_socket, GRPC: over_grpc}
    async with (
        relay(served.grpc_port if protocol == GRPC else served.port) as counted,
        ways[protocol](counted.port) as stream,
    ):
        pieces = await stream(tokens)  # the connection's beginning is not the token's cost
        assert pieces > tokens // 2, f"{pieces} of {tokens}"  # a token may hold a part of a character
        down, used = counted.down, served.cpu_seconds()
        for _ in range(streams):
            await stream(tokens)
        total = tokens * streams
        return Cost((counted.down - down) / total, (served.cpu_seconds() - used) / total * 1e6)


async def compare(served: Served, rounds: int, tokens: int, streams: int) -> None:
    """Measure all protocols in turn and print."""
    protocols = [REST, SOCKET, GRPC] if served.sockets else [REST, GRPC]
    taken: dict[str, list[Cost]] = {protocol: [] for protocol in protocols}
    for _ in range(rounds):
        for protocol in protocols:
            taken[protocol].append(await cost(served, protocol, tokens, streams))
    sys.stdout.write(f"\n{served.name}: {rounds} rounds, each {streams} streams of {tokens} tokens\n")
    for protocol in protocols:
        pairs = list(zip(taken[protocol], taken[REST], strict=True))
        size = statistics.median(one.bytes / rest.bytes for one, rest in pairs)
        cpu = [one.cpu_microseconds / rest.cpu_microseconds for one, rest in pairs]
        sys.stdout.write(
            f"  {protocol:14} {statistics.median(one.bytes for one in taken[protocol]):6.0f} bytes/token, {size:4.2f} x"
            f"   {statistics.median(one.cpu_microseconds for one in taken[protocol]):6.0f} us CPU/token, "
            f"{statistics.median(cpu):4.2f} x ({min(cpu):.2f} to {max(cpu):.2f})\n"
        )


def grpc_port_of(pid: int) -> int:
    """The gRPC port that a gateway was given."""
    given = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return int(dict(entry.split("=", 1) for entry in given if "=" in entry)["RYZANSTEIN_GATEWAY_GRPC_PORT"])


@asynccontextmanager
async def the_gateway(folder: Path) -> AsyncIterator[Served]:
    core = sorted(os.sched_getaffinity(0))[0]
    os.environ["RYZANSTEIN_GATEWAY_PROCESSES"] = "1"
    async with upstream(folder, core) as ports, gateway(folder, core, ports) as running:
        yield Served("Gateway", running.port, grpc_port_of(running.pid), running.pid, sockets=True)


@asynccontextmanager
async def a_worker(folder: Path) -> AsyncIterator[Served]:
    model = write_tiny_model(folder / "model")
    ports: Mapping[str, int] = {name: free_port() for name in ("--port", "--health-port", "--grpc-port")}
    flags = [word for name, port in ports.items() for word in (name, str(port))]
    command = [sys.executable, "-m", "ryzanstein_worker", "serve", "--model", str(model), "--served-model-name", MODEL]
    command += ["--device", "cpu", "--dtype", "float32", "--num-kv-blocks", "256", *flags]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stderr=log, env=environ)
    try:
        async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{ports['--health-port']}/health/ready")).is_success:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, (folder / "worker.log").read_text()[-2000:]
                await asyncio.sleep(0.1)
        yield Served("Worker", ports["--port"], ports["--grpc-port"], process.pid, sockets=False)
    finally:
        process.kill()
        await process.wait()


async def run(rounds: int, tokens: int, streams: int) -> None:
    """Both comparisons."""
    with tempfile.TemporaryDirectory() as folder:
        async with the_gateway(Path(folder)) as served:
            await compare(served, rounds, tokens, streams)
        async with a_worker(Path(folder)) as served:
            await compare(served, rounds, tokens, max(1, streams // 20))


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.protocols", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--streams", type=int, default=120)
    given = parser.parse_args()
    asyncio.run(run(given.rounds, given.tokens, given.streams))


if __name__ == "__main__":
    main()
