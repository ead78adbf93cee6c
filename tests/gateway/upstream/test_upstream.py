"""The client towards replicas: what it takes for a reply, what it refuses, what it keeps, what it leaves behind."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rawserver import Peer, RawServer, Script, raw_server
from ryzanstein_gateway import upstream
from ryzanstein_gateway.connection import HIGH_WATER_BYTES, MAX_BARE_BYTES, Connection
from ryzanstein_gateway.upstream import Broken, Call, ConnectFailed, Pool

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"7;ext=1\r\ndata: a\r\n2\r\n\n\n\r\n0\r\nx-trailer: t\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata: a\n\n"
BODY = b"data: a\n\n"


@asynccontextmanager
async def world(script: Script) -> AsyncIterator[tuple[Pool, RawServer]]:
    """A pool and a server, within a deadline."""
    async with asyncio.timeout(40), raw_server(script) as server, Pool() as pool:
        yield pool, server


def post(pool: Pool, server: RawServer, body: bytes = b"{}") -> Call:
    """A request with one header."""
    return pool.post("127.0.0.1", server.port, "/v1/x", [(b"x-a", b"1")], body, connect_timeout=5)


async def whole(pool: Pool, server: RawServer, got: list[bytes] | None = None) -> bytes:
    """A reply's whole body; its pieces also go to `got` as they come."""
    got = [] if got is None else got
    async with post(pool, server) as response:
        while piece := await response.read():
            got.append(piece)
    return b"".join(got)


def says(*parts: bytes, hang_up: bool = False) -> Script:
    """A server that answers each request with the same parts, sent apart."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for part in parts:
                await peer.send(part)
            if hang_up:
                return

    return script


async def test_a_request_goes_out_as_it_was_given_and_the_reply_has_lower_case_names() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(b"HTTP/1.1 404 Nope\r\nX-Thing: Value\r\nContent-Length: 2\r\n\r\nno")

    async with world(script) as (pool, server), post(pool, server, b'{"a": 1}') as response:
        assert (response.status, response.header(b"x-thing"), await response.read()) == (404, b"Value", b"no")
        assert await response.read() == b""
    head = (
        f"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-length: 8\r\n"
        "accept-encoding: identity\r\nx-a: 1\r\n\r\n"
    )
    assert seen == [(head.encode(), b'{"a": 1}')]


@pytest.mark.parametrize("reply", [CHUNKED, SIZED])
async def test_a_reply_is_the_same_wherever_the_network_cuts_it(reply: bytes) -> None:
    cut = 0

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(reply[:cut])
            await peer.send(reply[cut:])

    async with world(script) as (pool, server):
        for cut in range(1, len(reply)):  # noqa: B007 - the script reads it
            assert await whole(pool, server) == BODY
        assert server.accepted == 1
        server.script = says(*(bytes([byte]) for byte in reply))
        async with Pool() as other:
            assert await whole(other, server) == BODY


@pytest.mark.parametrize("reply", [CHUNKED, SIZED])
async def test_a_reply_that_ends_early_is_broken_wherever_it_ends(reply: bytes) -> None:
    cut = 0

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply[:cut])

    async with world(script) as (pool, server):
        for cut in range(len(reply)):
            got: list[bytes] = []
            with pytest.raises(Broken):
                await whole(pool, server, got)
            assert BODY.startswith(b"".join(got))
            # What had come before is handed out all the same.
            assert b"".join(got).startswith(b"data: a") or cut < reply.index(b"data: a") + 7
        assert server.accepted == len(reply)


async def test_a_connection_is_used_again_after_a_whole_reply() -> None:
    async with world(says(SIZED)) as (pool, server):
        assert [await whole(pool, server) for _ in range(5)] == [BODY] * 5
        assert server.accepted == 1
        assert await asyncio.gather(*(whole(pool, server) for _ in range(3))) == [BODY] * 3
        assert server.accepted == 3


@pytest.mark.parametrize(
    "reply",
    [
        SIZED.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        SIZED.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SIZED + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        SIZED + b"garbage",
    ],
    ids=["close", "HTTP/1.0", "a reply too many", "garbage after it"],
)
async def test_a_connection_is_not_used_again_where_the_next_reply_could_be_another(reply: bytes) -> None:
    async with world(says(reply)) as (pool, server):
        assert [await whole(pool, server) for _ in range(2)] == [BODY] * 2
        assert server.accepted == 2


async def test_what_comes_on_a_connection_that_nobody_uses_closes_it() -> None:
    spoke = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SIZED)
        await asyncio.sleep(0.02)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        spoke.set()
        await peer.reader.read()

    async with world(script) as (pool, server):
        assert await whole(pool, server) == BODY
        await spoke.wait()
        while server.open:  # the server itself does not hang up: the pool does, once it has heard
            await asyncio.sleep(0.01)
        server.script = says(SIZED)
        assert await whole(pool, server) == BODY
        assert server.accepted == 2


async def test_a_server_that_speaks_first_is_hung_up_on() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.reader.read()

    async with world(script) as (_, server):
        connection = await upstream.connect(("127.0.0.1", server.port), 5)
        while not connection.closed:
            await asyncio.sleep(0.01)


async def test_a_connection_whose_reply_was_left_is_closed() -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SIZED[:-2])
        await peer.reader.read()
        left.set()

    async with world(script) as (pool, server):
        async with post(pool, server) as response:
            assert await response.read() == BODY[:-2]
        await left.wait()


async def test_a_request_that_is_cancelled_before_its_reply_closes_the_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.reader.read()
        left.set()

    async with world(script) as (pool, server):
        asking = asyncio.create_task(whole(pool, server))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await left.wait()


async def test_a_connection_that_nobody_uses_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.05)
    async with world(says(SIZED)) as (pool, server):
        assert await whole(pool, server) == BODY
        while server.open:
            await asyncio.sleep(0.01)
        assert await whole(pool, server) == BODY
        assert server.accepted == 2


async def test_only_so_many_free_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_IDLE", 2)
    async with world(says(SIZED)) as (pool, server):
        await asyncio.gather(*(whole(pool, server) for _ in range(5)))
        while len(server.open) > 2:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(whole(pool, server) for _ in range(2)))
        assert server.accepted == 5


async def test_a_refused_connection_is_certainly_no_request() -> None:
    with socket.socket() as mute:  # held, so that nobody else comes to listen there
        mute.bind(("127.0.0.1", 0))
        async with Pool() as pool:
            with pytest.raises(ConnectFailed):
                async with pool.post("127.0.0.1", mute.getsockname()[1], "/", [], b"", connect_timeout=5):
                    pass


async def test_a_connection_that_does_not_come_about_in_time_is_certainly_no_request() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            async with Pool() as pool:
                with pytest.raises(ConnectFailed):
                    async with pool.post("127.0.0.1", full.getsockname()[1], "/", [], b"", connect_timeout=0.1):
                        pass
        finally:
            for filler in fillers:
                filler.close()


async def test_a_reader_that_is_slow_makes_the_replica_wait() -> None:
    total = 48 * 1024 * 1024
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            peer.writer.write(bytes(65_536))
            await peer.writer.drain()
            sent += 65_536

    async with world(script) as (pool, server), post(pool, server) as response:
        before, still = -1, 0
        while still < 10:  # until nothing moves any more: many looks, for one alone may follow on a standstill of ours
            before, still = sent, still + 1 if sent == before else 0
            await asyncio.sleep(0.02)
        assert 0 < sent < total / 2
        assert response._connection._held <= HIGH_WATER_BYTES + 256 * 1024
        got = 0
        while piece := await response.read():
            got += len(piece)
        assert got == total


GARBAGE = {
    "a request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "another protocol": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no number": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "a status that is none": b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "bare line ends": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nx: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "encodings in a row": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked and not": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk too long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc",
    "a long header": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 400_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 300 + b"Content-Length: 0\r\n\r\n",
    "endless interim replies": b"HTTP/1.1 103 Early\r\n\r\n" * 20_000,
    "a long chunk extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;" + b"a" * 400_000,
    "a long trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: " + b"a" * 400_000,
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_bytes_that_are_no_reply_are_broken_and_soon(name: str) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        try:
            await peer.send(GARBAGE[name])
            await peer.reader.read()
        finally:
            closed.set()

    async with world(script) as (pool, server):
        with pytest.raises(Broken):
            await whole(pool, server)
        await closed.wait()  # the server itself never hangs up: we did
    assert len(GARBAGE["a long header"]) > 4 * MAX_BARE_BYTES


async def test_interim_replies_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with world(says(interim, SIZED)) as (pool, server):
        for _ in range(2):
            async with post(pool, server) as response:
                assert (response.status, response.header(b"link")) == (200, None)
                assert await response.read() == BODY
        assert server.accepted == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_a_reply_that_has_no_body_ends_with_its_head(status: int) -> None:
    async with world(says(b"HTTP/1.1 %d X\r\n\r\n" % status)) as (pool, server):
        assert [await whole(pool, server) for _ in range(2)] == [b"", b""]
        assert server.accepted == 1


async def test_a_body_without_a_length_ends_with_the_connection_but_not_by_a_reset() -> None:
    reset = False

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        if reset:
            linger = b"\x01\0\0\0\0\0\0\0"  # on, for no time: a close is a reset
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with world(script) as (pool, server):
        assert await whole(pool, server) == b"abc"
        reset = True
        with pytest.raises(Broken):
            await whole(pool, server)


async def test_a_large_body_goes_up_whole() -> None:
    body = os.urandom(8 * 1024 * 1024)
    got: list[bool] = []

    async def script(peer: Peer) -> None:
        while True:
            await asyncio.sleep(0.02)
            got.append((await peer.request())[1] == body)
            await peer.send(SIZED)

    async with world(script) as (pool, server):
        for _ in range(2):
            async with post(pool, server, body) as response:
                assert await response.read() == BODY
        assert (got, server.accepted) == ([True, True], 1)


async def test_a_reply_that_comes_before_the_request_was_sent_is_read_and_the_connection_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()
        await peer.send(SIZED.replace(b"200 OK", b"413 No"))
        await asyncio.sleep(0.2)

    async with world(script) as (pool, server):
        for _ in range(2):
            async with post(pool, server, bytes(32 * 1024 * 1024)) as response:
                assert (response.status, await response.read()) == (413, BODY)
        assert server.accepted == 2


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nx: b"),
        (b"x", b"a\nb"),
        (b"x\r\ny", b"a"),
        (b"x", b"\0"),
        (b"content-length", b"5"),
        (b"host", b"h"),
    ],
)
async def test_a_header_that_could_be_read_as_two_or_frames_the_body_is_refused(header: tuple[bytes, bytes]) -> None:
    async with Pool() as pool:
        with pytest.raises(ValueError, match="a header"):
            pool.post("127.0.0.1", 1, "/", [header], b"", connect_timeout=1)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_ten_thousand_streams_that_are_left_leave_nothing_behind() -> None:
    opening = CHUNKED[: CHUNKED.index(b"2\r\n\n\n")]

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(opening)
        await peer.reader.read()

    async def leave(pool: Pool, server: RawServer, times: int) -> None:
        for _ in range(times):
            async with post(pool, server) as response:
                assert await response.read() == b"data: a"

    async def leave_all(pool: Pool, server: RawServer, times: int) -> None:
        await asyncio.gather(*(leave(pool, server, times // 20) for _ in range(20)))
        while server.open:
            await asyncio.sleep(0.01)
        for _ in range(10):  # what is closed goes a turn or two of the loop later
            await asyncio.sleep(0.01)

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

    def connections() -> int:
        gc.collect()
        return sum(type(one) is Connection for one in gc.get_objects())

    earlier = connections()  # of other tests in this process
    async with asyncio.timeout(100), raw_server(script) as server, Pool() as pool:
        await leave_all(pool, server, 100)
        files, tasks = held()
        await leave_all(pool, server, 9_900)
        while held()[0] > files or held()[1] > tasks:  # a leak is for ever, and the time runs out
            await asyncio.sleep(0.05)
        assert server.accepted == 10_000
    assert connections() <= earlier
