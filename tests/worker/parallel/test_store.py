"""The ranks' table: as torch's own store in every answer, and bounded."""

import asyncio
import datetime
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from ryzanstein_worker.engine.stores import serve_store
from ryzanstein_worker.parallel import keyvalue
from ryzanstein_worker.parallel.interfaces import interface_of
from ryzanstein_worker.parallel.keyvalue import Answer, Ask, Table
from ryzanstein_worker.parallel.messages import Channel, FrameCodec
from ryzanstein_worker.parallel.store import ChannelStore


class Served:
    """A table in a thread, and the stores of two ranks."""

    def __init__(self) -> None:
        self.table = Table()
        pairs = [socket.socketpair() for _ in range(2)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve([pair[0] for pair in pairs])))
        self._thread.start()
        self._channels = [self._channel(pair[1]) for pair in pairs]
        self.stores = [ChannelStore(channel, timeout_seconds=30.0) for channel in self._channels]

    async def _serve(self, socks: list[socket.socket]) -> None:
        async def answer(ask: Ask) -> Answer:
            return self.table.answer(ask)

        await asyncio.gather(*(serve_store(sock, answer) for sock in socks))

    def _channel(self, sock: socket.socket) -> Channel[Ask, Answer]:
        codec: FrameCodec[Ask, Answer] = FrameCodec(Answer)
        return Channel(sock, codec, on_wait=lambda: None, tick=0.1)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the table's end outlived its ranks"


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def _exercise(store: dist.Store) -> list[object]:
    """Through C++, as torch calls it."""
    prefixed = dist.PrefixStore("p", store)
    prefixed.set("a", b"1\0\xff")
    answers: list[object] = [prefixed.get("a"), prefixed.check(["a"]), prefixed.check(["a", "b"])]
    answers += [prefixed.add("n", 3), prefixed.add("n", -1), prefixed.get("n")]
    answers += [prefixed.compare_set("c", "", "first"), prefixed.compare_set("c", "other", "second")]
    answers += [prefixed.compare_set("c", "first", "third"), prefixed.get("c")]
    answers += [prefixed.delete_key("a"), prefixed.delete_key("a"), prefixed.check(["a"]), prefixed.num_keys()]
    with pytest.raises(RuntimeError):
        prefixed.wait(["never"], datetime.timedelta(milliseconds=50))
    return answers


def test_it_answers_as_torchs_own_store_does(served: Served) -> None:
    assert _exercise(served.stores[0]) == _exercise(dist.HashStore())


def test_what_one_rank_sets_another_that_waits_gets(served: Served) -> None:
    one, other = served.stores
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(other.get("late")))
    waiting.start()
    time.sleep(0.1)
    assert not got
    one.set("late", b"v")
    waiting.join(30)
    assert got == [b"v"]
    assert other.num_keys() == 1


def test_a_table_that_is_full_says_so_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(keyvalue, "MOST_KEYS", 1)
    store = served.stores[0]
    store.set("a", b"1")
    store.set("a", b"2")
    with pytest.raises(RuntimeError, match="full"):
        store.set("b", b"1")
    store.set("a", b"x")
    with pytest.raises(RuntimeError, match="is no number"):
        store.add("a", 1)
    assert store.get("a") == b"x"
    monkeypatch.setattr(keyvalue, "MOST_BYTES", 10)
    assert served.table.answer(Ask(what="set", key="a", value=b"x" * 10)).error


def test_a_parent_that_is_gone_ends_the_waiting(served: Served) -> None:
    served.close()
    with pytest.raises(RuntimeError, match="cannot be reached"):
        served.stores[0].set("a", b"1")


def test_every_address_of_this_machine_has_its_interface_and_no_other_has() -> None:
    assert {interface_of(address) for address in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1")} == {"lo"}
    with pytest.raises(ValueError, match="no network interface"):
        interface_of("203.0.113.7")
