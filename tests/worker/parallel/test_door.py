"""The group's port over real sockets: who holds the key comes in, and nobody else keeps it out."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel import door
from ryzanstein_worker.parallel.door import MOST_WAITING, Door, Guest, tune
from ryzanstein_worker.parallel.handshake import HandshakeError, admit, introduce, read_key
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import Seal
from ryzanstein_worker.parallel.streams import read_exactly, send_all

KEY = b"k" * 32


class Inn:
    """A door whose guests are only counted."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        self.guests: list[Guest] = []
        self.door = Door(listener, KEY, self._receive)

    async def _receive(self, guest: Guest) -> None:
        self.guests.append(guest)

    async def connect(self) -> socket.socket:
        sock = socket.socket()
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return sock


@asynccontextmanager
async def opened() -> AsyncIterator[Inn]:
    inn = Inn()
    running = asyncio.create_task(inn.door.run())
    try:
        async with asyncio.timeout(30):
            yield inn
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for guest in inn.guests:
            guest.sock.close()


async def _ended(sock: socket.socket) -> bool:
    """Whether the other side closes the connection; what it said before is read and forgotten."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(sock, 4096):
            pass
    except OSError:
        pass
    sock.close()
    return True


def _drops(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "was dropped" in record.getMessage()]


async def test_both_ends_of_a_connection_come_to_the_same_keys_and_no_two_connections_do() -> None:
    async with opened() as inn:
        socks = [await inn.connect() for _ in range(2)]
        seals = [await introduce(sock, KEY) for sock in socks]
        while len(inn.guests) < 2:
            await asyncio.sleep(0.01)
        theirs = {(guest.seal.receive_key, guest.seal.send_key) for guest in inn.guests}
        assert {(seal.send_key, seal.receive_key) for seal in seals} == theirs
        assert len({key for seal in seals for key in (seal.send_key, seal.receive_key)}) == 4
        for sock in socks:
            sock.close()


async def test_another_key_is_refused_and_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as inn:
        sock = await inn.connect()
        with pytest.raises(HandshakeError, match="it holds another key"):
            await introduce(sock, b"x" * 32)
        assert await _ended(sock)
        assert not inn.guests
    assert len(_drops(caplog)) == 1


async def test_a_listener_without_the_key_is_found_out() -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)

    async def pretend() -> None:
        greeting = b"ryzanstein group 1\n" + bytes(32)
        await send_all(theirs, greeting)
        proof = await read_exactly(theirs, 64)
        await send_all(theirs, proof[32:])  # sent back: it is the caller's, not a listener's

    with ours, theirs:
        pretending = asyncio.create_task(pretend())
        with pytest.raises(HandshakeError, match="does not hold the group's key"):
            await introduce(ours, KEY)
        await pretending


async def test_another_protocol_is_told_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 4)
        with pytest.raises(HandshakeError, match="another protocol"):
            await introduce(ours, KEY)


async def test_garbage_and_a_flood_drop_only_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "ADMISSION_SECONDS", 60.0)  # longer than the test may take: nobody's time is over
    caplog.set_level(logging.WARNING)
    async with opened() as inn:
        garbage, slow, gone = [await inn.connect() for _ in range(3)]
        await send_all(garbage, b"\x16\x03\x01" * 100)
        await send_all(slow, b"x")
        gone.close()
        flood = [await inn.connect() for _ in range(2 * MOST_WAITING)]
        friend = await inn.connect()
        await introduce(friend, KEY)  # past all of them, and without waiting for their time to be over
        assert await _ended(garbage)
        assert all([await _ended(sock) for sock in [slow, *flood[:MOST_WAITING]]])
        for sock in flood[MOST_WAITING:]:
            sock.close()
        while len(_drops(caplog)) < 3 + len(flood):
            await asyncio.sleep(0.01)
        assert len(inn.guests) == 1
        friend.close()
    drops = _drops(caplog)
    assert len(drops) == 3 + len(flood), "one line each"
    assert sum("too many wait at once" in line for line in drops) > MOST_WAITING


async def test_one_that_says_too_little_is_dropped_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "ADMISSION_SECONDS", 0.5)
    async with opened() as inn:
        slow = await inn.connect()
        await send_all(slow, b"x")
        assert await _ended(slow)
        assert not inn.guests
    (line,) = _drops(caplog)
    assert "within 0.5 s" in line


async def test_a_guest_who_does_not_belong_is_dropped_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as inn:

        async def refuse(guest: Guest) -> None:
            raise ChannelClosedError("it came too late")

        inn.door._receive = refuse
        sock = await inn.connect()
        await introduce(sock, KEY)
        assert await _ended(sock)
    assert _drops(caplog) == ["a connection to the group's port was dropped: it came too late"]


async def test_a_proof_of_another_connection_is_no_proof() -> None:
    """What was heard on one connection is of no use on the next: each has a nonce of the listener's."""
    pairs = [socket.socketpair() for _ in range(2)]
    for pair in pairs:
        for end in pair:
            end.setblocking(False)
    (listener, caller), (next_listener, thief) = pairs
    admitted: asyncio.Task[Seal] = asyncio.create_task(admit(listener, KEY))
    greeting = await read_exactly(caller, 51)
    other, honest = socket.socketpair()
    other.setblocking(False)
    honest.setblocking(False)
    await send_all(other, greeting)
    introduced = asyncio.create_task(introduce(honest, KEY))
    proof = await read_exactly(other, 64)
    await send_all(caller, proof)
    await send_all(other, await read_exactly(caller, 32))
    assert (await introduced).send_key == (await admitted).receive_key
    again: asyncio.Task[Seal] = asyncio.create_task(admit(next_listener, KEY))
    await read_exactly(thief, 51)
    await send_all(thief, proof)
    with pytest.raises(HandshakeError):
        await again
    for sock in (*pairs[0], *pairs[1], other, honest):
        sock.close()


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot be read: No such file"), (b" short \n", "holds 5 bytes")]
)
def test_a_key_that_is_none_is_told_in_a_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_key(path)


def test_a_key_is_read_without_the_line_end_that_an_editor_leaves(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    assert read_key(path) == KEY
