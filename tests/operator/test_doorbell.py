"""Where gateways say that requests wait: whoever has the key is heard, nobody else, and nonsense gets a sentence."""

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_operator.doorbell import MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_VIEW_BYTES, Doorbell, Heard, Word
from ryzanstein_operator.gateway_view import GatewayView, Told, read_view
from ryzanstein_worker.contract import DEMAND_PATH, OVERVIEW_PATH, VIEWS_PATH

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
        self.overview: bytes | None = b'{"services": []}'
        self.server = Doorbell(self.hear, self.hear_view, self.key_file, "127.0.0.1", 0, self.show)

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

    def show(self) -> bytes | None:
        if self.busy:
            raise TimeoutError
        return self.overview

    def ask(self, path: str = OVERVIEW_PATH, key: str = f"Bearer {KEY}") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"authorization": key})
            with connection.getresponse() as answer:
                assert answer.headers["content-type"] == "application/json"
                return answer.status, answer.read()

    def ring(self, body: Any = WORD, *, path: str = DEMAND_PATH, method: str = "POST", **headers: str) -> int:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
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
    assert bell.ring(path=OVERVIEW_PATH) == 404
    assert bell.ring(method="PUT") == 501
    assert bell.ask(DEMAND_PATH)[0] == 404
    assert bell.ring(b" " * (MAX_BODY_BYTES + 1)) == 413
    for length in ("x", "-1", "9" * 30):
        assert bell.ring(**{"content-length": length}) == 413
    assert bell.heard == []


def test_the_overview_is_for_who_has_the_key_and_from_who_leads(bell: Bell) -> None:
    assert bell.ask() == (200, bell.overview)
    assert [bell.ask(key=key)[0] for key in ("", "Bearer wrong", KEY)] == [401] * 3
    bell.overview = None
    assert bell.ask()[0] == 503
    bell.busy = True
    assert bell.ask()[0] == 503


def test_connections_are_bounded_and_their_places_come_back(bell: Bell) -> None:
    place = ("127.0.0.1", bell.server.port)
    with contextlib.ExitStack() as idle:
        for _ in range(MAX_CONNECTIONS):
            idle.enter_context(socket.create_connection(place, timeout=20))
        with socket.create_connection(place, timeout=20) as late, contextlib.suppress(ConnectionError):
            assert late.recv(1) == b"", "hung up on"
    deadline = time.monotonic() + 30
    while not bell.heard:
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            assert bell.ring() == 200


VIEW = {
    "sender": "gateway-0",
    "services": [
        {
            "namespace": "team",
            "service": "chat-workers",
            "sound": 1,
            "replicas": [{"address": "[fd00::1]", "state": "Unreachable", "reason": "silent", "seconds": 4}],
        }
    ],
}


def test_a_view_is_heard_under_the_same_key(bell: Bell) -> None:
    for answer in (Heard.LEADING, Heard.STANDBY):
        bell.answer = answer
        assert bell.ring(VIEW, path=VIEWS_PATH) == answer
    row = ReplicaView("fd00::1", "Unreachable", "silent", 4.0)
    told = Told("team", "chat", ServiceView("gateway-0", 1, (row,)))
    assert bell.views == [GatewayView("gateway-0", (told,))] * 2
    assert bell.ring(VIEW, path=VIEWS_PATH, authorization="Bearer wrong") == 401
    bell.busy = True
    assert bell.ring(VIEW, path=VIEWS_PATH) == 503
    assert (len(bell.views), bell.heard) == (2, [])


def test_a_view_may_be_long_and_no_longer(bell: Bell) -> None:
    rows = [{"address": f"10.0.{n // 250}.{n % 250}", "state": "Refused", "seconds": 1.5} for n in range(4000)]
    services = [VIEW["services"][0] | {"replicas": rows}]  # type: ignore[index]  # a dict in a list
    assert MAX_BODY_BYTES < len(json.dumps(VIEW | {"services": services})) < MAX_VIEW_BYTES
    assert bell.ring(VIEW | {"services": services}, path=VIEWS_PATH) == 200
    assert len(bell.views[0].services[0].view.replicas) == 4000
    too_long = {"content-length": str(MAX_VIEW_BYTES + 1)}
    assert bell.ring(b"", path=VIEWS_PATH, **too_long) == 413, "before anything of it is read"
    assert bell.ring(b" " * (MAX_BODY_BYTES + 1)) == 413, "a demand stays short"


def _with_row(**changes: Any) -> dict[str, Any]:
    row = {"address": "10.0.0.1", "state": "Lagging", "reason": "", "seconds": 1.0} | changes
    return {"sender": "g", "services": [{"namespace": "team", "service": "chat", "sound": 1, "replicas": [row]}]}


def _with_service(**changes: Any) -> dict[str, Any]:
    return {"sender": "g", "services": [{"namespace": "team", "service": "chat", "sound": 1} | changes]}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "The body"),
        (b"[" * 3000, "The body"),
        (b'{"sender": "g", "services": [], "x": "\\ud800"}', "The body"),
        ([], "The body"),
        ({"services": []}, "sender"),
        ({"sender": "", "services": []}, "sender"),
        ({"sender": "g" * 254, "services": []}, "sender"),
        ({"sender": "g"}, "services"),
        ({"sender": "g", "services": {}}, "services"),
        (_with_service(namespace=None), "services.0.namespace"),
        (_with_service(sound=-1), "services.0.sound"),
        (_with_service(sound=True), "services.0.sound"),
        (_with_service(sound=2**70), "services.0.sound"),
        (_with_service(replicas=[1]), "services.0.replicas.0"),
        (_with_row(state="Dead"), "services.0.replicas.0.state"),
        (_with_row(address=""), "services.0.replicas.0.address"),
        (_with_row(address="[]"), "services.0.replicas.0.address"),
        (_with_row(address="10.0.0.1/8"), "services.0.replicas.0.address"),
        (_with_row(address=7), "services.0.replicas.0.address"),
        (_with_row(seconds=-1), "services.0.replicas.0.seconds"),
        (_with_row(seconds=float("inf")), "services.0.replicas.0.seconds"),
        (_with_row(seconds=float("nan")), "services.0.replicas.0.seconds"),
        (_with_row(seconds="4"), "services.0.replicas.0.seconds"),
        (_with_row(reason="x" * 513), "services.0.replicas.0.reason"),
        (_with_row(accelerator_fault="x" * 513), "services.0.replicas.0.accelerator_fault"),
    ],
)
def test_nonsense_in_a_view_is_refused_with_its_place(bell: Bell, body: Any, place: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ValueError, match=rf"^{re.escape(place)}: "):
        read_view(raw)
    assert bell.ring(raw, path=VIEWS_PATH) == 400
    assert bell.views == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda value: json.dumps(value).encode(), JSON),
        st.builds(lambda **changes: json.dumps(_with_row(**changes)).encode(), state=JSON, seconds=JSON, address=JSON),
        st.builds(lambda **changes: json.dumps(_with_service(**changes)).encode(), sound=JSON, replicas=JSON),
    )
)
def test_whatever_comes_is_read_within_bounds_or_refused_in_a_sentence(body: bytes) -> None:
    try:
        view = read_view(body)
    except ValueError as error:
        sentence = str(error)
    else:
        sentence = "read"
    assert 0 < len(sentence) < 1000
    for told in view.services if sentence == "read" else ():
        assert 0 <= told.view.sound <= 1_000_000
        assert all(0 <= row.seconds <= 1e9 and 0 < len(row.address) <= 64 for row in told.view.replicas)
