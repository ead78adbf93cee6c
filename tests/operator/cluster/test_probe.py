"""A kubelet that answers anything at all is alive; one that says nothing costs two tries and no more."""

import asyncio
import contextlib
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
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers here shares a machine that may stand still for a while."""
    monkeypatch.setattr(probe, "TRY_SECONDS", 20.0)


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
    door: KubeletDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TRY_SECONDS", 1.0)
    frozen = KubeletDoor(tmp_path / "frozen")
    frozen.hang()
    gone = KubeletDoor(tmp_path / "gone")
    gone.close()
    several = [f"frozen-{number}" for number in range(8)]
    started = time.monotonic()
    answers = await ask_kubelets([at(door), *(at(frozen, name) for name in several), at(gone, "gone")])
    seconds = time.monotonic() - started
    frozen.close()
    assert answers == {"a": True, **dict.fromkeys(several, False), "gone": False}
    assert seconds < 2 * probe.TRY_SECONDS * len(several) / 2, "one after the other"


async def test_one_that_comes_back_within_the_second_try_answers(
    door: KubeletDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.close()
    waited: list[float] = []

    async def comes_back(seconds: float) -> None:
        waited.append(seconds)
        door.open()

    monkeypatch.setattr(asyncio, "sleep", comes_back)
    assert await ask_kubelets([at(door)]) == {"a": True}
    assert len(waited) == 1
    assert 0 < waited[0] <= probe.TRY_SECONDS, "the time of a try"


async def test_who_has_no_address_is_not_asked_and_no_round_asks_too_many(door: KubeletDoor) -> None:
    assert await ask_kubelets([replace(at(door), address="")]) == {}
    crowd = [replace(at(door), name=str(number)) for number in range(MOST + 5)]
    assert len(await ask_kubelets(crowd)) == MOST


async def test_something_that_speaks_no_tls_is_no_kubelet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TRY_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asking = asyncio.create_task(ask_kubelets([node("a", port=listener.getsockname()[1])]))
        taken, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 20)
        with contextlib.suppress(ConnectionError):  # it may have given up meanwhile
            taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        taken.close()
        assert await asking == {"a": False}
