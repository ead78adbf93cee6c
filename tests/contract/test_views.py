"""What a gateway says of replicas is what the operator's strict reader understands, through the operator's real ear."""

import asyncio
from pathlib import Path

import msgspec

from doorbell import KEY
from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.routes import Route, RouteTable
from ryzanstein_gateway.telling import Teller
from ryzanstein_gateway.views import ReplicaView, ServiceView, State, View, encode
from ryzanstein_gateway.vitals import Outcome, Status
from ryzanstein_operator.desired import names
from ryzanstein_operator.doorbell import Doorbell, Heard
from ryzanstein_operator.gateway_view import GatewayView, read_view
from ryzanstein_worker.contract import SUFFIX_GROUP, SUFFIX_WORKERS

FAULT = "GPU 0 (GPU-1): it has fallen off the bus (XID 79)."


def test_every_state_and_the_longest_words_are_understood() -> None:
    replicas = tuple(
        ReplicaView(address, state, "\u00e9\u0000" * 128, 1e6, "y" * 256)
        for address in ("10.0.0.1", "fd00:10:244:1::ffff")
        for state in State
    )
    heard = read_view(encode(View("gateway-7f9c/0", (ServiceView("team", "chat-workers", 3, replicas),))))
    (told,) = heard.services
    assert (heard.sender, told.namespace, told.service, told.view.sound) == ("gateway-7f9c/0", "team", "chat", 3)
    fields = ("address", "state", "reason", "seconds", "accelerator_fault")
    for said, understood in zip(replicas, told.view.replicas, strict=True):
        assert [getattr(said, name) for name in fields] == [getattr(understood, name) for name in fields]


def test_names_and_lengths_are_agreed_on() -> None:
    replicas = tuple(ReplicaView(f"10.0.0.{index}", State.UNREACHABLE, "x" * 256, 1.0) for index in range(8))
    view = View("g/0", tuple(ServiceView("team", f"s{index}-workers", 0, replicas) for index in range(4000)))
    assert len(msgspec.json.encode(view)) > 1024 * 1024
    heard = read_view(encode(view))
    assert len(encode(view)) <= 1024 * 1024
    assert len(heard.services) == 4000
    assert {one.service for one in heard.services} == {f"s{index}" for index in range(4000)}
    assert names.workers_service("chat") == f"chat{SUFFIX_WORKERS}"
    assert names.group_service("chat") == f"chat{SUFFIX_GROUP}"


async def test_what_a_gateway_sees_reaches_the_operators_ear(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    heard: list[GatewayView] = []

    def hear(view: GatewayView) -> Heard:
        heard.append(view)
        return Heard.LEADING

    fleet = Fleet()
    route = Route("chat", "team", "chat-workers", 8000)
    fleet.table = RouteTable({"chat": route})
    endpoints = (Endpoint("10.0.0.1", "one"), Endpoint("[fd00::2]", "two"))
    fleet.add_store().by_service = {("team", "chat-workers"): endpoints}
    fine, bad = fleet.to_check()
    for one in (fine, bad):
        fleet.told(one, Status(epoch="a"))
    fleet.told(bad, Status(epoch="a", ready=False, accelerator_fault=FAULT))
    with Doorbell(lambda word: Heard.UNKNOWN, hear, key_file, "127.0.0.1", 0) as bell:
        # News does not wait for the interval, which here is longer than the test waits.
        teller = Teller(Operators(f"http://127.0.0.1:{bell.port}", key_file), fleet, "gateway/0", interval=600.0)
        task = asyncio.create_task(teller.run())
        async with asyncio.timeout(30):
            while not teller.told_at:
                await asyncio.sleep(0.01)
        (told,) = heard[0].services
        assert (told.view.sound, [one.address for one in told.view.replicas]) == (1, ["fd00::2"])
        assert (told.view.replicas[0].state, told.view.replicas[0].accelerator_fault) == ("NotReady", FAULT)
        fine.missed(Outcome.REFUSED)
        async with asyncio.timeout(30):
            while heard[-1].services[0].view.sound:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
