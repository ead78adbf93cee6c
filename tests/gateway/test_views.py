"""What the gateway tells the operators of the replicas, and that it does so soon and at no request's cost."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doorbell import KEY, Heard, Several, listening
from gateway_world import NAMESPACE, open_world, until
from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.breaker import Breaker
from ryzanstein_gateway.endpoints import Conditions, EndpointSlice, SliceEndpoint, TargetRef
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.kube import Meta
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.outlier import Ejection
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.routes import Route, RouteTable
from ryzanstein_gateway.telling import STANDBY_SECONDS, Teller
from ryzanstein_gateway.views import Looks, ReplicaView, ServiceView, State, View, encode
from ryzanstein_gateway.vitals import Outcome, Status

SERVICE = ("models", "chat-workers")
FINE = Status(phase="serving", ready=True, epoch="a", reason="every rank gives signs of life")
FAULT = "GPU 0 (GPU-1) has fallen off the bus (XID 79); its node must be restarted."


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def known(*checks: Status | Outcome, clock: Clock | None = None, **held: Any) -> ReplicaState:
    """A replica after these checks, one each second; the clock stands at the last one."""
    clock = clock or Clock()
    one = ReplicaState(Endpoint("10.0.0.1", "pod"), SERVICE, 8001, clock)
    for check in checks:
        clock.now += 1.0
        if isinstance(check, Status):
            one.told(check)
        else:
            one.missed(check)
    for name, value in held.items():
        setattr(one, name, value)
    return one


def seen(one: ReplicaState, looks: Looks | None = None) -> ReplicaView | None:
    """How it is told of, if it is."""
    looks = looks or Looks()
    looks.begin()
    view = looks.service(SERVICE, [one], [], one.clock())
    assert view.sound == (0 if view.replicas else 1)
    return view.replicas[0] if view.replicas else None


def page(**changes: Any) -> Status:
    return msgspec.structs.replace(FINE, **changes)


OPEN = Breaker(opened_at=100.0, openings=1)
CASES: list[tuple[str, ReplicaState, State | None, float, str]] = [
    ("sound", known(FINE), None, 0.0, ""),
    ("one late answer", known(FINE, Outcome.FAILED), None, 0.0, ""),
    ("silent", known(FINE, Outcome.FAILED, Outcome.FAILED), State.UNREACHABLE, 2.0, "does not answer"),
    ("a dead process", known(FINE, Outcome.REFUSED), State.REFUSED, 1.0, "Nobody listens"),
    ("no page", known(FINE, Outcome.BROKEN, Outcome.BROKEN), State.NOT_READY, 2.0, "cannot be read"),
    ("now and then", known(FINE, Outcome.FAILED, Outcome.FAILED, FINE), State.LAGGING, 0.0, "2 went unanswered"),
    ("a hung rank", known(page(beat_age=3.5)), State.LAGGING, 3.5, "has not moved for 3.5 s"),
    ("a lost rank", known(page(beat_age=9.0, ready=False, reason="rank 1 is gone")), State.LAGGING, 9.0, "rank 1"),
    ("loading", known(page(phase="loading", ready=False, reason="The model loads.")), State.NOT_READY, 0.0, "loads"),
    ("draining", known(page(phase="draining", ready=False)), State.DRAINING, 0.0, "draining"),
    ("its pod ends", known(FINE, endpoint=Endpoint("10.0.0.1", "pod", leaving=True)), State.DRAINING, 0.0, "pod ends"),
    ("ends, unseen", known(FINE, *[Outcome.FAILED] * 2, endpoint=Endpoint("10.0.0.1", "pod", leaving=True)),
     State.UNREACHABLE, 2.0, "does not answer"),
    ("said so itself", known(FINE, shunned_until=200.0), State.DRAINING, 0.0, "draining"),
    ("a bad accelerator", known(page(accelerator_fault=FAULT)), State.NOT_READY, 0.0, "fallen off the bus"),
    ("breaker", known(FINE, breaker=OPEN), State.NOT_READY, 0.0, "circuit breaker"),
    ("an outlier", known(FINE, ejection=Ejection(200.0, 1)), State.LAGGING, 0.0, "than the others"),
    # Servers without a health page: judged by their answers.
    ("foreign", known(*[Outcome.REFUSED] * 3), None, 0.0, ""),
    ("foreign, filtered", known(*[Outcome.FAILED] * 3, heard=True), None, 0.0, ""),
    ("foreign, failing", known(*[Outcome.REFUSED] * 3, breaker=OPEN), State.NOT_READY, 0.0, "circuit breaker"),
    ("foreign, gone", known(*[Outcome.FAILED] * 3, heard=True, breaker=OPEN), State.UNREACHABLE, 0.0, "breaker"),
    ("never heard of", known(*[Outcome.FAILED] * 3), State.UNREACHABLE, 0.0, "does not answer"),
    ("not asked yet", known(), None, 0.0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("one", "state", "seconds", "reason"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_is_said_of_a_replica(one: ReplicaState, state: State | None, seconds: float, reason: str) -> None:
    found = seen(one)
    assert (found.state if found else None) == state
    if found:
        assert (found.seconds, found.address) == (seconds, "10.0.0.1")
        assert reason in found.reason


def test_for_how_long_counts_from_the_last_sign_of_life_and_else_from_when_it_was_first_seen_so() -> None:
    clock, looks = Clock(), Looks()
    one = known(FINE, Outcome.FAILED, Outcome.FAILED, clock=clock)
    for expected in (2.0, 5.0):
        found = seen(one, looks)
        assert found is not None
        assert (found.state, found.seconds) == (State.UNREACHABLE, expected)
        clock.now += 3.0
    one = known(page(phase="draining"), clock=clock)
    looks = Looks()
    for expected in (0.0, 3.0):
        found = seen(one, looks)
        assert found is not None
        assert (found.state, found.seconds) == (State.DRAINING, expected)
        clock.now += 3.0
    one.told(FINE)
    assert seen(one, looks) is None
    one.told(page(phase="draining"))
    again = seen(one, looks)
    assert again is not None
    assert again.seconds == 0.0, "it was sound in between"


def test_words_are_bounded_and_an_address_is_a_pods() -> None:
    one = known(page(ready=False, reason="x" * 999, accelerator_fault="y" * 999))
    one.endpoint = Endpoint("[fd00::7]", "pod")
    found = seen(one)
    assert found is not None
    assert found.address == "fd00::7"
    assert (len(found.reason), len(found.accelerator_fault)) == (256, 256)


def crowd(services: int, replicas: int, words: int) -> View:
    states = list(State)
    found = tuple(
        ReplicaView(f"10.1.2.{index}", states[index % 5], "w" * words, 1.0, FAULT if index == 7 else "")
        for index in range(replicas)
    )
    return View("g/0", tuple(ServiceView("models", f"s{number}-workers", 3, found) for number in range(services)))


def test_a_message_too_long_loses_the_least_grave_and_no_count() -> None:
    view = crowd(100, 20, 100)
    body = json.loads(encode(view, 100_000))
    assert len(encode(view, 100_000)) <= 100_000
    assert [one["sound"] for one in body["services"]] == [3] * 100
    kept = body["services"][0]["replicas"]
    assert 0 < len(kept) < 20
    assert kept[0]["accelerator_fault"] == FAULT
    assert {one["state"] for one in kept[1:]} == {"Unreachable"}
    assert json.loads(encode(view))["services"][0]["replicas"][19]["state"] == "Draining", "all of it where it fits"


def test_a_message_with_more_services_than_it_can_hold_is_still_one() -> None:
    body = encode(crowd(2000, 1, 1), 20_000)
    assert 10_000 < len(body) <= 20_000
    assert all(one["replicas"] == [] for one in json.loads(body)["services"])


def slice_of(*entries: tuple[str, bool]) -> EndpointSlice:
    """Addresses and whether each is ready."""
    ends = tuple(
        SliceEndpoint((host,), Conditions(ready, ready, False), TargetRef(f"uid-{host}", f"pod-{host}"))
        for host, ready in entries
    )
    labels = {"kubernetes.io/service-name": SERVICE[1]}
    return EndpointSlice(Meta("chat-a", SERVICE[0], "1", labels), endpoints=ends)


def fleet_of(*hosts: str, clock: Clock | None = None) -> Fleet:
    """A fleet with one service, in two routes, and these replicas, each with a good page."""
    fleet = Fleet(clock or time.monotonic)
    routes = [Route(model, *SERVICE, port=8000) for model in ("chat", "chat-alias")]
    fleet.table = RouteTable({one.model: one for one in routes})
    fleet.add_store().replace([slice_of(*((host, True) for host in hosts))])
    for one in fleet.to_check():
        fleet.told(one, FINE)
    return fleet


def told_of(fleet: Fleet) -> ServiceView:
    looks = Looks()
    looks.begin()
    (view,) = [looks.service(*group, fleet.now()) for group in fleet.groups()]
    return view


def test_a_replica_with_a_bad_accelerator_is_told_of_while_kubernetes_calls_it_not_ready() -> None:
    fleet = fleet_of("10.0.0.1", "10.0.0.2")
    store = fleet._stores[0]
    assert (told_of(fleet).sound, told_of(fleet).replicas) == (2, ())
    bad = next(one for one in fleet.to_check() if one.endpoint.host == "10.0.0.2")
    fleet.told(bad, page(ready=False, accelerator_fault=FAULT))
    for ready in (True, False):  # its probe fails a little later, and it leaves the list of those that may be sent to
        store.replace([slice_of(("10.0.0.1", True), ("10.0.0.2", ready))])
        view = told_of(fleet)
        assert (view.sound, [one.accelerator_fault for one in view.replicas]) == (1, [FAULT])
        assert [one.endpoint.host for one in fleet.unready_to_check()] == ([] if ready else ["10.0.0.2"])
        assert len(fleet.to_check()) == (2 if ready else 1)
    route = fleet.table.by_model["chat"]
    assert [one.endpoint.host for one in fleet.candidates(route)] == ["10.0.0.1"], "it gets no request"
    (asked,) = fleet.unready_to_check()
    fleet.told(asked, page(ready=False))
    assert told_of(fleet).replicas == (), "who only starts is the operator's to see"
    store.replace([slice_of(("10.0.0.1", True), ("10.0.0.2", True))])
    assert told_of(fleet).sound == 2
    assert fleet.unready_to_check() == []


def test_of_a_groups_other_pods_only_a_bad_accelerator_is_told() -> None:
    fleet = fleet_of("10.0.0.1")
    labels = {"kubernetes.io/service-name": "chat-group"}
    ends = slice_of(("10.0.0.1", True), ("10.0.0.2", True)).endpoints
    fleet._stores[0].upsert(EndpointSlice(Meta("chat-group-a", SERVICE[0], "1", labels), endpoints=ends))
    (follower,) = fleet.unready_to_check()
    assert follower.endpoint.host == "10.0.0.2"
    for outcome in (Outcome.REFUSED, Outcome.FAILED, Outcome.FAILED):
        follower.missed(outcome)
        assert told_of(fleet) == ServiceView(*SERVICE, sound=1), "its leader answers for the group"
    fleet.told(fleet.unready_to_check()[0], page(accelerator_fault=FAULT))
    view = told_of(fleet)
    assert view.sound == 1
    assert [(one.address, one.accelerator_fault) for one in view.replicas] == [("10.0.0.2", FAULT)]
    assert [one.endpoint.host for one in fleet.candidates(fleet.table.by_model["chat"])] == ["10.0.0.1"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is held up by this machine has not failed: only what a test does to an operator counts."""
    monkeypatch.setattr("ryzanstein_gateway.operators.CALL_SECONDS", 60.0)


async def run(teller: Teller) -> "asyncio.Task[None]":
    return asyncio.create_task(teller.run())


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_news_come_at_once() -> None:
    fleet = fleet_of("10.0.0.1", "10.0.0.2")
    async with listening() as ear:
        began = time.time()
        teller = Teller(Several(ear), fleet, "g/0", interval=60.0)
        task = await run(teller)
        await ear.until("the first view", lambda one: one.service(SERVICE[1])["sound"] == 2, 20)
        one, _ = fleet.to_check()
        one.missed(Outcome.REFUSED)
        found = await ear.until("the dead one", lambda one: one.service(SERVICE[1])["sound"] == 1, 20)  # far below 60
        assert [(one["address"], one["state"]) for one in found.service(SERVICE[1])["replicas"]] == [
            ("10.0.0.1", "Refused")
        ]
        assert found.view["sender"] == "g/0"
        assert began <= teller.told_at <= time.time()
        await end(task)


@pytest.mark.slow
async def test_without_news_the_same_is_said_as_often_as_the_interval_says() -> None:
    async with listening() as ear:
        began = time.monotonic()
        task = await run(Teller(Several(ear), fleet_of("10.0.0.1"), "g/0", interval=0.6))
        await ear.until("the first view", lambda one: True, 20)
        await ear.until("the third", lambda one: len(ear.heard) >= 3, 20)
        # From the begin on, not from one to the next: one that was late on its way comes close before the next.
        for number, one in enumerate(ear.heard[:3]):
            assert one.at - began >= 0.6 * number
        await end(task)


@pytest.mark.slow
async def test_many_changes_are_at_most_four_messages_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of("10.0.0.1")
    (one,) = fleet.to_check()
    async with listening() as ear:
        teller = Teller(Several(ear), fleet, "g/0")
        looks, look = 0, teller.look

        async def counted() -> View:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(teller, "look", counted)
        task = await run(teller)
        began = time.monotonic()
        for number in range(150):
            fleet.told(one, page(accelerator_fault=f"fault {number}"))  # never the same at two looks
            await asyncio.sleep(0.01)
        most = (time.monotonic() - began) / 0.25 + 2
        assert 2 <= looks <= most
        assert 2 <= len(ear.heard) <= most
        await end(task)


async def test_an_operator_that_does_not_answer_keeps_no_news_from_another() -> None:
    fleet = fleet_of("10.0.0.1", "10.0.0.2")
    async with listening() as slow, listening() as quick:
        slow.hold = asyncio.Event()
        task = await run(Teller(Several(slow, quick), fleet, "g/0"))
        await quick.until("the first view", lambda one: one.service(SERVICE[1])["sound"] == 2, 20)
        await until(lambda: len(slow.heard) == 1, "the slow one has its message", 20)
        one, _ = fleet.to_check()
        one.missed(Outcome.REFUSED)
        await quick.until("the dead one", lambda one: one.service(SERVICE[1])["sound"] == 1, 20)  # the other has 60
        assert len(slow.heard) == 1, "none has two messages under way"
        slow.hold.set()
        slow.hold = None
        await slow.until("the slow one hears it as well", lambda one: one.service(SERVICE[1])["sound"] == 1, 20)
        await end(task)


@pytest.mark.slow
async def test_a_stand_by_or_a_busy_one_is_told_again_soon_and_who_leads_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as ear:
        ear.status = 503
        began = time.monotonic()
        teller = Teller(Several(ear), fleet_of("10.0.0.1"), "g/0", interval=60.0)
        task = await run(teller)
        await until(lambda: len(ear.heard) == 1, "it was told", 20)
        ear.status = 200
        await until(lambda: len(ear.heard) == 2 or teller.told_at > 0, "it is told again before the usual time", 20)
        assert len(ear.heard) == 2, "one that stands by does not count as having heard it"
        assert ear.heard[1].at - began >= STANDBY_SECONDS
        await until(lambda: teller.told_at > 0, "it leads now", 20)
        assert not caplog.records
        await end(task)


@pytest.mark.slow
async def test_operators_that_are_away_are_warned_of_once_and_told_when_they_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as ear:
        await ear.stop()
        task = await run(Teller(Several(ear), fleet_of("10.0.0.1"), "g/0"))
        async with asyncio.timeout(20):
            while "no operator hears" not in caplog.text:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.3)
        assert caplog.text.count("no operator hears") == 1
        await ear.start()
        await ear.until("it is there", lambda one: one.service(SERVICE[1])["sound"] == 1, 20)
        assert {record.levelno for record in caplog.records} == {logging.WARNING}
        await end(task)


async def test_without_operators_or_before_the_routes_are_known_nothing_is_said(tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        await Teller(Operators("", None), fleet_of(), "g/0").run()
    async with listening() as ear:
        why = ["not listed yet"]
        task = await run(Teller(Several(ear), fleet_of(), "g/0", lambda: why[0]))
        await asyncio.sleep(0.6)
        assert ear.heard == []
        why[0] = ""
        heard = await ear.until("all is known", lambda one: True, 20)
        said = {"namespace": "models", "service": SERVICE[1], "sound": 0, "in_flight": 0, "waiting": 0, "replicas": []}
        assert heard.service(SERVICE[1]) | {"idle_seconds": 0.0} == said | {"idle_seconds": 0.0}
        await end(task)


@pytest.mark.slow
async def test_a_gateway_finds_its_operator_by_name_and_shows_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("an-older-key\n")
    async with listening() as ear:
        url, began = f"http://localhost.localdomain:{ear.port}", time.time()
        monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", _looked_up)
        async with open_world(tmp_path, monkeypatch, operator_url=url, operator_key_file=key_file) as world:
            await until(lambda: ear.refused > 0, "it was told with a key that is not the operator's", 20)
            assert ear.heard == []
            key_file.write_text(f"{KEY}\n")
            one = await world.add_replica()
            await one.show_health(world.health_port)
            await world.route("chat")
            await world.endpoints("chat", [one])
            sound = await ear.until("the replica", lambda heard: heard.service("chat-workers").get("sound") == 1, 25)
            assert sound.service("chat-workers")["namespace"] == NAMESPACE
            await one.hide_health()
            await ear.until("its end", _state("chat-workers", one.host, "Refused"), 20)
            assert await world.metric("ryzanstein_gateway_views_told_timestamp_seconds") >= began
    assert "an-older-key" not in caplog.text


async def _looked_up(loop: Any, host: str, port: int, **_: Any) -> list[Any]:
    assert host == "localhost.localdomain"
    return [(0, 0, 0, "", ("127.0.0.1", port))] * 2


def _state(service: str, address: str, state: str) -> Any:
    def holds(heard: Heard) -> bool:
        replicas = heard.service(service).get("replicas", [])
        return any((one["address"], one["state"]) == (address, state) for one in replicas)

    return holds


@pytest.mark.slow
async def test_a_page_in_pieces_is_one_and_one_that_is_none_is_no_dead_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch) as world:
        port, mode = world.health_port, "pieces"
        ranks = [{"rank": rank, "node_rank": 0, "state": "idle", "age_seconds": 0.1} for rank in range(256)]
        long_page = json.dumps({"phase": "serving", "ready": True, "epoch": "a", "ranks": ranks}).encode()
        assert len(long_page) > 16_384

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(long_page)}\r\nconnection: close\r\n\r\n".encode()
                if mode == "pieces":
                    writer.write(head)
                    for at in range(0, len(long_page), 4000):
                        writer.write(long_page[at : at + 4000])
                        await writer.drain()
                        await asyncio.sleep(0.005)
                elif mode == "garbage":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{]")
                elif mode == "error":
                    writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()  # mode "hangup": nothing at all

        one = await world.add_replica()
        async with await asyncio.start_server(serve, one.host, port):
            await world.route("chat")
            await world.endpoints("chat", [one])

            def state() -> State | None:
                return next((view.state for view in told_of(world.gateway._fleet).replicas), None)

            def vitals_known() -> bool:
                return any(known.vitals.status for known in world.gateway._fleet._replicas.values())

            await until(vitals_known, "the long page was read", 20)
            assert state() is None
            for mode in ("garbage", "error", "hangup"):
                await until(lambda: state() is State.NOT_READY, f"{mode} was seen", 20)
                mode = "pieces"
                await until(lambda: state() is None, "it is sound again", 20)
