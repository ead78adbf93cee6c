"""A kubelet that answers anything at all is alive; one that says nothing costs two tries and no more."""

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubelet_door import KubeletDoor
from node_builders import node
from ryzanstein_operator.cluster import probe
from ryzanstein_operator.cluster.probe import MOST, ask_kubelets
from ryzanstein_operator.decide.scene import Node


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TRY_SECONDS", 0.4)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[KubeletDoor]:
    opened = KubeletDoor(tmp_path)
    yield opened
    opened.close()


def at(door: KubeletDoor, name: str = "a") -> Node:
    return node(name, port=door.port)


async def test_a_refusal_for_want_of_a_key_is_a_sign_of_life(door: KubeletDoor) -> None:
    assert await ask_kubelets([at(door)]) == {"a": True}
    assert door.asked == 1


async def test_who_refuses_connections_or_says_nothing_is_silent_and_all_are_asked_at_once(
    door: KubeletDoor, tmp_path: Path
) -> None:
    frozen = KubeletDoor(tmp_path / "frozen")
    frozen.hang()
    gone = KubeletDoor(tmp_path / "gone")
    gone.close()
    started = time.monotonic()
    answers = await ask_kubelets([at(door), at(frozen, "frozen"), at(gone, "gone")])
    frozen.close()
    assert answers == {"a": True, "frozen": False, "gone": False}
    assert time.monotonic() - started < 3


async def test_one_that_comes_back_within_the_second_try_answers(door: KubeletDoor) -> None:
    door.close()
    asking = asyncio.create_task(ask_kubelets([at(door)]))
    await asyncio.sleep(0.1)
    door.open()
    assert await asking == {"a": True}


async def test_who_has_no_address_is_not_asked_and_no_round_asks_too_many(door: KubeletDoor) -> None:
    assert await ask_kubelets([replace(at(door), address="")]) == {}
    crowd = [replace(at(door), name=str(number)) for number in range(MOST + 5)]
    assert len(await ask_kubelets(crowd)) == MOST


async def test_something_that_speaks_no_tls_is_no_kubelet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        name = node("a", port=listener.getsockname()[1])
        asking = asyncio.create_task(ask_kubelets([name]))
        await asyncio.sleep(0.1)
        listener.setblocking(False)
        taken, _ = listener.accept()
        taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        taken.close()
        assert await asking == {"a": False}
