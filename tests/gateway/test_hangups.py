"""Clients that leave in mid-stream, a thousand of them, leave nothing behind in the gateway."""

import asyncio
import gc
import json
import os
from itertools import count

import pytest

from gateway_world import KEY, World, until
from rawserver import Peer, raw_server
from replica import Replica
from ryzanstein_gateway.connection import Connection
from ryzanstein_gateway.exchange import Exchange
from ryzanstein_worker.contract import COMPLETIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CLIENTS = 1_000
_BODY = json.dumps({"model": "m", "prompt": "x", "stream": True}).encode()
_REQUEST = (
    f"POST {COMPLETIONS} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {KEY}\r\n"
    f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
).encode() + _BODY
_OPENING = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n"
)


def remains() -> list[object]:
    """What is still held of requests, by anybody."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in (Connection, Exchange)]


async def test_clients_that_leave_in_mid_stream_leave_nothing_behind(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(_OPENING)
        await peer.reader.read()

    numbers = count()

    async def leave(clients: int) -> None:
        for _ in range(clients):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
            writer.write(_REQUEST)
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b"data: {}")
            (writer.transport.abort if next(numbers) % 2 else writer.close)()

    async with asyncio.timeout(100), raw_server(script) as server:
        world.port = server.port
        await world.route("m")
        await world.endpoints("m", [Replica("127.0.0.1", server.port)])

        async def leave_all(clients: int) -> tuple[int, int]:
            await asyncio.gather(*(leave(clients // 20) for _ in range(20)))
            await until(lambda: not server.open, "the replica has heard of each")
            await until(lambda: not world.gateway._fleet.in_flight(), "nothing is counted as running")
            await asyncio.sleep(0.05)
            return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

        files, tasks = await leave_all(CLIENTS // 10)
        await leave_all(CLIENTS - CLIENTS // 10)
        # A health check that happens to run has a few of its own; and the last to leave may still be on their way.
        await until(lambda: len(os.listdir("/proc/self/fd")) <= files + 4, f"no more descriptors than {files} and 4")
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 4, f"no more tasks than {tasks} and 4")
        assert server.accepted == CLIENTS
        await until(lambda: not remains(), "nothing remains of a connection or an exchange")
    assert await world.metric('ryzanstein_gateway_requests_total{code="499",model="m",protocol="http"}') == CLIENTS
