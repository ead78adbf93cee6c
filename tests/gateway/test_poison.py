"""Hostile requests through the gateway to a real worker, over all three protocols: each harms itself alone."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway_world import KEY, World, open_world
from poison import CORPUS, RAW, RAW_MESSAGES, Poison, as_message
from processes import started_at
from ryzanstein.v1.methods import SERVICE
from ryzanstein_worker.contract import COMPLETIONS, REALTIME
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # a worker's start is in the first test's time

GOOD = {"model": MODEL_NAME, "prompt": "The quick brown fox", "max_tokens": 8, "temperature": 0.8, "seed": 5}
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
SERVED, REFUSED = "served", "refused"
PATIENCE = 30.0
"""Seconds after which something is taken not to come. No promise."""
OUR_FAULT = {"internal_error", "engine_error", "engine_lost", "upstream_error"}
CALLERS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    model_dir = write_tiny_model(tmp_path_factory.mktemp("model"))
    with serve_worker(model_dir, "--max-num-seqs", "16", "--num-kv-blocks", "256") as one:
        yield one


@pytest.fixture
async def world(worker: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A gateway with the one worker behind it."""
    async with open_world(tmp_path, monkeypatch) as one:
        one.port, one.health_port = urlsplit(worker.api).port or 0, urlsplit(worker.health).port or 0
        await one.route(MODEL_NAME)
        replica: Any = SimpleNamespace(host="127.0.0.1")
        await one.endpoints(MODEL_NAME, [replica])
        yield one


async def good(world: World) -> str:
    """The text of a good request's answer, always the same."""
    answer = await world.ask(COMPLETIONS, **GOOD)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


@asynccontextmanager
async def unharmed(world: World, worker: WorkerProcess) -> AsyncIterator[None]:
    """Checks that neither the worker's processes nor its answers change; good requests run beside."""
    pids = [worker.process.pid, *worker.ranks()]
    born, alone = [started_at(pid) for pid in pids], await good(world)
    done = asyncio.Event()
    texts = []

    async def beside() -> None:
        while not done.is_set():
            texts.append(await good(world))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(beside())
    try:
        yield
    finally:
        done.set()
        await task
    assert {*texts, await good(world)} == {alone}
    assert [started_at(pid) for pid in (worker.process.pid, *worker.ranks())] == born


class Rest:
    """Asks over HTTP."""

    def __init__(self, world: World) -> None:
        self._client = world.client

    async def ask(self, poison: Poison) -> str | None:
        return await self.raw(json.dumps(poison.body).encode(), poison.path)

    async def raw(self, body: bytes, path: str = COMPLETIONS) -> str:
        answer = await self._client.post(path, content=body, headers=HEADERS)
        if answer.status_code == 200:
            return SERVED
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return REFUSED if 400 <= answer.status_code < 500 else f"{answer.status_code} {answer.text[:200]}"


class Socket:
    """Asks over one WebSocket, which lives through all of it."""

    def __init__(self, one: ClientConnection) -> None:
        self._socket = one

    async def ask(self, poison: Poison) -> str | None:
        return await self.raw(json.dumps(poison.body).encode(), poison.path)

    async def raw(self, body: bytes, path: str = COMPLETIONS) -> str | None:
        kind = b"completion" if path == COMPLETIONS else b"chat"
        message = b'{"type": "create", "id": "p", "kind": "%b", "request": %b}' % (kind, body)
        try:
            await self._socket.send(message.decode())
        except UnicodeDecodeError:
            return None  # a text frame cannot carry it; what comes of one that tries is a test of its own
        async with asyncio.timeout(PATIENCE):
            while (answer := json.loads(await self._socket.recv()))["type"] == "event":
                pass
        if answer["type"] == "done":
            return SERVED
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        fine = 400 <= answer["status"] < 500 and answer["error"]["code"] not in OUR_FAULT
        return REFUSED if fine else f"{answer}"[:200]


class Grpc:
    """Asks over gRPC, where that has words for it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def ask(self, poison: Poison) -> str | None:
        message = as_message(poison)
        return None if message is None else await self.call(message[0], message[1].SerializeToString())

    async def call(self, method: str, raw: bytes) -> str:
        call = self._channel.unary_stream(f"/{SERVICE}/{method}")(
            raw, metadata=(("authorization", f"Bearer {KEY}"),), timeout=PATIENCE
        )
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return REFUSED if error.code() in CALLERS_FAULT else f"{error.code()} {error.details()}"
        return SERVED


Asker = Rest | Socket | Grpc


@asynccontextmanager
async def asker(world: World, protocol: str) -> AsyncIterator[Asker]:
    """One that asks over the protocol."""
    if protocol == "rest":
        yield Rest(world)
    elif protocol == "websocket":
        url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
        headers = {"authorization": HEADERS["authorization"]}
        async with connect(url, additional_headers=headers, proxy=None, compression=None) as one:
            yield Socket(one)
    else:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
            yield Grpc(channel)


@pytest.mark.parametrize("protocol", ["rest", "websocket", "grpc"])
async def test_the_corpus_harms_only_itself_over_every_protocol(
    world: World, worker: WorkerProcess, protocol: str
) -> None:
    faults, asked = [], 0
    async with unharmed(world, worker), asker(world, protocol) as one:
        for poison in CORPUS:
            outcome = await one.ask(poison)
            asked += outcome is not None
            if outcome not in (None, SERVED if poison.served else REFUSED):
                faults.append(f"{poison.name}: {outcome}")
    assert not faults, "\n".join(faults)
    assert asked == len(CORPUS) if protocol != "grpc" else asked > 50


@pytest.mark.parametrize("protocol", ["rest", "websocket"])
async def test_bodies_that_are_not_plain_json_harm_only_themselves(
    world: World, worker: WorkerProcess, protocol: str
) -> None:
    async with unharmed(world, worker), asker(world, protocol) as one:
        assert isinstance(one, Rest | Socket)
        outcomes = {name: await one.raw(body) for name, body in RAW.items()}
    assert {name: outcome for name, outcome in outcomes.items() if outcome not in (None, REFUSED)} == {}


async def test_messages_that_are_none_harm_only_themselves(world: World, worker: WorkerProcess) -> None:
    async with unharmed(world, worker), asker(world, "grpc") as one:
        assert isinstance(one, Grpc)
        outcomes = {
            f"{method}: {name}": await one.call(method, raw)
            for name, raw in RAW_MESSAGES.items()
            for method in (
                "Chat" if "role" in name else "Complete",
                "StreamChat" if "role" in name else "StreamComplete",
            )
        }
    assert {name: outcome for name, outcome in outcomes.items() if outcome != REFUSED} == {}


# --- Below the messages: what a client may do to its connection -----------------------------------------------

Attack = Callable[[World], Awaitable[None]]
LONG = {"model": MODEL_NAME, "prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True}


async def _exchange(
    world: World, sent: bytes, *, half_close: bool = False, closes: bool = False, port: int = 0
) -> bytes:
    """What comes back until the other side closes (`closes`: it has to), or says nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port or world.gateway.port)
    with suppress(ConnectionError):
        writer.write(sent)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await writer.drain()
    answer = b""
    with suppress(ConnectionError, *([] if closes else [TimeoutError])):
        while True:
            async with asyncio.timeout(0.2 if answer else PATIENCE):
                piece = await reader.read(65536)
            if not piece:
                break
            answer += piece
    writer.transport.abort()
    return answer


def _head(**headers: str) -> bytes:
    lines = {"host": "x", **HEADERS} | {name.replace("_", "-"): value for name, value in headers.items()}
    return f"POST {COMPLETIONS} HTTP/1.1\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode() for name, value in lines.items()
    )


def _whole(body: bytes, **headers: str) -> bytes:
    return _head(content_length=str(len(body)), **headers) + b"\r\n" + body


def _chunked(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def _announced_64_mb(world: World) -> None:
    assert b" 413 " in (await _exchange(world, _head(content_length=str(64 << 20)) + b"\r\n"))[:20]


async def _sent_64_mb(world: World) -> None:
    endless = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    answer = await _exchange(world, _head(transfer_encoding="chunked") + b"\r\n" + endless * 64)
    assert not answer or b" 413 " in answer[:20]


async def _gzip_bomb(world: World) -> None:
    import gzip

    bomb = gzip.compress(b" " * (64 << 20), mtime=0)
    assert b" 400 " in (await _exchange(world, _whole(bomb, content_encoding="gzip")))[:20]


async def _one_byte_a_chunk(world: World) -> None:
    body = json.dumps(GOOD).encode()
    answer = await _exchange(world, _head(transfer_encoding="chunked") + b"\r\n" + _chunked(body, 1))
    assert b" 200 " in answer[:20]


async def _three_mb_of_tiny_chunks(world: World) -> None:
    sent = _head(transfer_encoding="chunked") + b"\r\n" + _chunked(b" " * 500_000, 1)
    assert b" 400 " in (await _exchange(world, sent))[:20]


async def _endless_trailers(world: World) -> None:
    sent = _head(transfer_encoding="chunked") + b"\r\n0\r\n" + b"x-pad: " + b"y" * (60 << 20)
    answer = await _exchange(world, sent, closes=True)
    assert not answer or b" 413 " in answer[:20]


async def _chunk_sizes_that_are_none(world: World) -> None:
    for size in (b"-1", b"ffffffffffffffffff", b"zz", b"1;" + b"x" * 600_000):
        answer = await _exchange(world, _head(transfer_encoding="chunked") + b"\r\n" + size + b"\r\n")
        assert b" 200 " not in answer[:20], size


async def _header_of_a_megabyte(world: World) -> None:
    assert b" 431 " in (await _exchange(world, _head(x_pad="y" * (1 << 20)) + b"\r\n"))[:20]


async def _half_close(world: World) -> None:
    await _exchange(world, _whole(json.dumps(GOOD).encode()), half_close=True)
    await _exchange(world, _head(content_length="100") + b"\r\n{", half_close=True)


async def _reset(world: World) -> None:
    """Connections that end with RST, in mid-head, in mid-body, in mid-stream."""
    whole = _whole(json.dumps(LONG).encode())
    for sent in (whole[:20], whole[:-5], whole, whole):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        raw: Any = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(sent)
        if sent is whole:
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"data:")
        writer.transport.abort()


async def _slow_reader(world: World) -> None:
    """Reads a byte now and then of a stream that would fill its window."""
    body = json.dumps(LONG | {"n": 8}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, limit=1)
    writer.write(_whole(body))
    for _ in range(5):
        async with asyncio.timeout(PATIENCE):
            await reader.read(1)
        await asyncio.sleep(0.1)
    writer.transport.abort()


async def _slow_writer(world: World) -> None:
    """A head that never ends; it is not waited for."""
    _, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nx: ")
    for _ in range(5):
        writer.write(b"y")
        await asyncio.sleep(0.05)
    writer.transport.abort()


async def _garbage_at_every_port(world: World) -> None:
    """What a port scanner says, and one protocol at the other's door."""
    said = (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n")  # fmt: skip
    for port in (world.gateway.port, world.gateway.grpc_port, world.gateway.health_port):
        await asyncio.gather(*(_exchange(world, what, port=port, half_close=True) for what in said))


async def _http2_floods(world: World) -> None:
    """Pings, settings and resets without end on the gRPC port, and headers without end."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"x" * 8
    settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
    begun = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"
    continued = b"\x00\x40\x00\x09\x00\x00\x00\x00\x01" + b"\x00" * 0x4000
    too_long = b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 100_000
    floods = (ping * 10_000, settings * 10_000, begun + continued * 100, too_long)
    for flood in floods:
        await _exchange(world, preface + flood, port=world.gateway.grpc_port)


async def _message_too_large_for_grpc(world: World) -> None:
    async with asker(world, "grpc") as one:
        assert isinstance(one, Grpc)
        assert await one.call("Complete", b"\x0a" + b"\xff" * (20 << 20)) == REFUSED


async def _out_of_time_before_it_began(world: World) -> None:
    async with asker(world, "grpc") as one:
        assert isinstance(one, Grpc)
        poison = next(poison for poison in CORPUS if poison.served)
        _, message = as_message(poison) or ("", None)
        assert message is not None
        for _ in range(20):
            call = one._channel.unary_stream(f"/{SERVICE}/Complete")(
                message.SerializeToString(), metadata=(("authorization", f"Bearer {KEY}"),), timeout=1e-6
            )
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def _socket_that_breaks_the_rules(world: World) -> None:
    """One connection each: a text that is no UTF-8, an oversize frame, a frame without a mask, floods."""
    breaches = (
        b"\x81\x82mask" + bytes(a ^ b for a, b in zip(b"\xc0\xaf", b"ma", strict=True)),
        b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask",
        b"\x81\x02{}",
        b"\x89\x80mask" * 5000,
        b"\x01\x80mask" + b"\x00\x80mask" * 5000,
        b"\xc1\x80mask",
    )
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    headers = {"authorization": HEADERS["authorization"]}
    for breach in breaches:
        async with connect(url, additional_headers=headers, proxy=None, compression=None) as one:
            one.transport.write(breach)
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionClosed):
                    while True:
                        await one.recv()


async def _socket_dropped_in_mid_stream(world: World) -> None:
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    headers = {"authorization": HEADERS["authorization"]}
    async with connect(url, additional_headers=headers, proxy=None, compression=None) as one:
        for name in "abcdefgh":
            await one.send(json.dumps({"type": "create", "id": name, "kind": "completion", "request": LONG}))
        async with asyncio.timeout(PATIENCE):
            await one.recv()
        one.transport.abort()


ATTACKS: tuple[Attack, ...] = (
    _announced_64_mb, _sent_64_mb, _gzip_bomb, _one_byte_a_chunk, _three_mb_of_tiny_chunks, _endless_trailers,
    _chunk_sizes_that_are_none, _header_of_a_megabyte, _half_close, _reset, _slow_reader, _slow_writer,
    _garbage_at_every_port, _http2_floods, _message_too_large_for_grpc, _out_of_time_before_it_began,
    _socket_that_breaks_the_rules, _socket_dropped_in_mid_stream,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
async def test_what_is_done_to_a_connection_harms_only_that_one(
    world: World, worker: WorkerProcess, attack: Attack
) -> None:
    async with unharmed(world, worker):
        await attack(world)
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        async with asyncio.timeout(PATIENCE):  # and nothing of it goes on running
            while True:
                metrics = (await client.get(f"{worker.health}/metrics")).text
                running = [line for line in metrics.splitlines() if line.startswith("ryzanstein_num_requests_running{")]
                if all(line.endswith(" 0.0") for line in running):
                    break
                await asyncio.sleep(0.05)
