"""Where gateways say that requests wait: whoever has the key is heard, nobody else, and nonsense gets a sentence."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ryzanstein_operator.doorbell import MAX_BODY_BYTES, MAX_CONNECTIONS, Doorbell, Heard, Word
from ryzanstein_operator.gateway_view import GatewayView
from ryzanstein_worker.contract import DEMAND_PATH

WORD = {"namespace": "team", "service": "chat-workers", "waiting": 3, "sender": "gateway-0/1"}
KEY = "k" * 40


class Bell:
    """A doorbell that writes down what it heard."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[Word] = []
        self.views: list[GatewayView] = []
        self.answer = Heard.LEADING
        self.busy = False
        self.key_file = folder / "key"
        self.key_file.write_text(KEY + "\n")
        self.server = Doorbell(self.hear, self.hear_view, self.key_file, "127.0.0.1", 0)

    def hear(self, word: Word) -> Heard:
        if self.busy:
            raise TimeoutError
        self.heard.append(word)
        return self.answer

    def hear_view(self, view: GatewayView) -> Heard:
        if self.busy:
            raise TimeoutError
        self.views.append(view)
        return self.answer

    def ring(self, body: Any = WORD, *, path: str = DEMAND_PATH, method: str = "POST", **headers: str) -> int:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, path, raw, {"authorization": f"Bearer {KEY}"} | headers)
            with connection.getresponse() as answer:
                assert json.loads(answer.read())["message"] if method == "POST" else True
                return answer.status


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    one = Bell(tmp_path)
    with one.server:
        yield one


def test_who_has_the_key_is_heard_and_told_who_leads(bell: Bell) -> None:
    for answer in Heard:
        bell.answer = answer
        assert bell.ring() == answer
    assert bell.heard == [Word("team", "chat", 3, "gateway-0/1")] * len(Heard)
    bell.busy = True
    assert bell.ring() == 503


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \xff"])
def test_without_the_key_nobody_is_heard(bell: Bell, given: str) -> None:
    assert bell.ring(authorization=given) == 401
    assert bell.ring(path="/", authorization=given) == 401, "not even what there is"
    assert bell.heard == []


def test_an_empty_or_missing_key_lets_nobody_in_and_an_exchanged_one_holds_at_once(bell: Bell) -> None:
    bell.key_file.write_text("\n")
    assert bell.ring(authorization="Bearer ") == 401
    bell.key_file.unlink()
    assert bell.ring() == 401
    bell.key_file.write_text("other")
    assert bell.ring(authorization="Bearer other") == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 3000,
        b"\xff",
        [],
        WORD | {"waiting": 0},
        WORD | {"waiting": True},
        WORD | {"waiting": 2**64},
        WORD | {"waiting": "3"},
        WORD | {"service": ""},
        WORD | {"sender": "x" * 254},
        {"namespace": "team"},
    ],
)
def test_nonsense_is_refused_in_a_sentence(bell: Bell, body: Any) -> None:
    assert bell.ring(body) == 400
    assert bell.heard == []


def test_other_paths_methods_and_sizes_are_refused(bell: Bell) -> None:
    assert bell.ring(path="/metrics") == 404
    assert bell.ring(method="GET") == 501
    assert bell.ring(b" " * (MAX_BODY_BYTES + 1)) == 413
    for length in ("x", "-1", "9" * 30):
        assert bell.ring(**{"content-length": length}) == 413
    assert bell.heard == []


def test_connections_are_bounded_and_their_places_come_back(bell: Bell) -> None:
    place = ("127.0.0.1", bell.server.port)
    with contextlib.ExitStack() as idle:
        for _ in range(MAX_CONNECTIONS):
            idle.enter_context(socket.create_connection(place, timeout=5))
        with socket.create_connection(place, timeout=5) as late, contextlib.suppress(ConnectionError):
            assert late.recv(1) == b"", "hung up on"
    deadline = time.monotonic() + 10
    while not bell.heard:
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            assert bell.ring() == 200
