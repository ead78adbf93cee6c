"""The client of Prometheus against what a user may ask and a stranger may answer."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from ryzanstein_operator.cluster import prometheus as module
from ryzanstein_operator.cluster.prometheus import Point, Prometheus, QueryError
from ryzanstein_operator.settings import Metrics
from stubprometheus import vector

Answer = Callable[[str], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is in this process, which a busy machine may let stand still for longer than two seconds."""
    monkeypatch.setattr(module, "QUERY_SECONDS", 30.0)


def whole(body: bytes, *head: str) -> bytes:
    """An answer with its head."""
    lines = ["HTTP/1.1 200 OK", "Connection: close", f"Content-Length: {len(body)}", *head, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def asking(answer: Answer) -> AsyncIterator[Prometheus]:
    """A client of a server that answers what `answer` gives to the form."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        writer.write(await answer((await reader.readexactly(length)).decode()))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = Prometheus(Metrics(f"http://{host}:{port}"))
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def test_a_users_query_that_is_slow_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    over = asyncio.Event()

    async def answer(form: str) -> bytes:
        if "heavy" in form:
            await over.wait()
        return whole(vector([({}, 1)]))

    async with asking(answer) as client:
        monkeypatch.setattr(module, "QUERY_SECONDS", 0.2)
        with pytest.raises(QueryError, match="has not answered within"):
            await client.query("heavy", foreign=True)
        monkeypatch.setattr(module, "QUERY_SECONDS", 30.0)
        assert await client.query("light") == (Point({}, 1.0),)
        over.set()


async def test_a_packed_answer_is_not_unpacked() -> None:
    """Nobody has asked for one, and a few bytes may be gigabytes."""

    async def answer(_: str) -> bytes:
        return whole(gzip.compress(vector([({}, 1)])), "Content-Encoding: gzip")

    async with asking(answer) as client:
        with pytest.raises(QueryError) as caught:
            await client.query("x")
    assert caught.value.why == "garbage"


async def test_a_number_beyond_all_numbers_is_none() -> None:
    number = b"9" * 400

    async def answer(_: str) -> bytes:
        result = b'[{"metric":{},"value":[1,%b]}]' % number
        return whole(b'{"status":"success","data":{"resultType":"vector","result":%b}}' % result)

    async with asking(answer) as client:
        with pytest.raises(QueryError) as caught:
            await client.query("x")
    assert caught.value.why == "garbage"
