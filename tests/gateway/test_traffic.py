"""How much goes on for a service, and for how long nothing has: told truly of all processes of a gateway together."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from doorbell import KEY as OPERATOR_KEY
from doorbell import Ear, Heard, Several, listening
from gateway_process import MODEL, gateway_process
from gateway_world import CLIENT_SECONDS, NAMESPACE, World, until
from replica import Replica
from ryzanstein_gateway.board import Board, forget
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.recent import Recent, counted
from ryzanstein_gateway.routes import Route, RouteTable
from ryzanstein_gateway.telling import Teller
from ryzanstein_gateway.traffic import Traffic, together
from ryzanstein_gateway.views import Looks, ServiceView, View

KEY = (NAMESPACE, "demo-workers")
ASK: dict[str, Any] = {"model": "demo", "messages": []}


def one(in_flight: int = 0, waiting: int = 0, busy_at: float = 0.0, service: str = "demo-workers") -> Traffic:
    return Traffic(NAMESPACE, service, in_flight, waiting, busy_at)


def idle(looks: Looks, now: float, traffic: Traffic | None) -> float:
    looks.begin()
    return looks.service(KEY, [], [], now, traffic).idle_seconds


def test_parts_of_one_service_add_up_and_the_last_that_was_busy_counts() -> None:
    found = together([one(1, 2, 10.0), one(3, 4, 5.0), one(7, service="other-workers")])
    assert found[KEY] == one(4, 6, 10.0)
    assert found[NAMESPACE, "other-workers"].in_flight == 7
    late, quick = Recent(), Recent()
    late.observe(1.0, 1e9)
    for seconds in (1e9, 0.0):
        quick.observe(1.0, seconds)
    lasting = [Traffic(*KEY, 0, 0, 0.0, *one.summary(1.0)) for one in (late, Recent(), quick)]
    total = together(lasting)[KEY]
    counts = counted(total.first_bytes)
    assert (total.requests, counts[0], counts[-1], sum(counts)) == (3, 1, 2, 3), "the last minute's first bytes, too"


def test_idle_counts_from_the_last_request_of_any_process() -> None:
    looks = Looks()
    assert idle(looks, 100.0, None) == 0.0, "it is new here, and was not idle before"
    assert idle(looks, 104.0, None) == 4.0
    assert idle(looks, 105.0, one(in_flight=1, busy_at=101.0)) == 0.0
    assert idle(looks, 106.0, one(waiting=1, busy_at=101.0)) == 0.0
    assert idle(looks, 110.0, one(busy_at=107.5)) == 2.5, "one came and went between two looks"


def test_a_process_that_dies_takes_no_request_out_of_memory() -> None:
    looks = Looks()
    idle(looks, 100.0, one(in_flight=3, busy_at=90.0))
    assert idle(looks, 102.0, None) == 2.0
    assert idle(looks, 103.0, one(busy_at=90.0)) == 3.0, "what another says of long ago makes it no older"


def test_a_service_that_was_gone_is_new_when_it_comes_back() -> None:
    looks = Looks()
    idle(looks, 100.0, None)
    looks.begin()
    assert idle(looks, 200.0, None) == 0.0


def test_traffic_alone_is_no_news() -> None:
    calm, busy = [
        View("g/0", (ServiceView(*KEY, 1, in_flight=number, waiting=number, idle_seconds=float(number)),))
        for number in (0, 5)
    ]
    assert calm.essence() == busy.essence()


async def test_each_process_sees_the_others_and_what_died_is_gone(tmp_path: Path) -> None:
    parts = [[one(1, 0, 10.0)], [one(2, 3, 20.0)]]
    boards = [Board(lambda at=at: parts[at], tmp_path, at) for at in range(2)]  # type: ignore[misc]
    tasks = [asyncio.create_task(board.run()) for board in boards]
    try:
        for board in boards:
            await until(lambda board=board: board.all().get(KEY) == one(3, 3, 20.0), "both are seen")  # type: ignore[misc]
        parts[1] = [one(0, 0, 30.0)]
        await until(lambda: boards[0].all().get(KEY) == one(1, 0, 30.0), "the change is seen")
        tasks[1].cancel()
        forget(tmp_path, 1)
        assert boards[0].all()[KEY] == one(1, 0, 10.0)
        (tmp_path / "traffic-1.json").write_text("[")
        assert boards[0].all()[KEY] == one(1, 0, 10.0), "what cannot be read is left out"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def traffic_of(world: World) -> Traffic | None:
    return world.gateway._board.all().get(KEY)


async def test_a_requests_way_is_told_while_it_runs_and_while_it_waits(world: World) -> None:
    await world.route("demo")
    assert traffic_of(world) is None
    await world.endpoints("demo", [])
    waits = asyncio.create_task(world.ask(**ASK))
    await until(lambda: (seen := traffic_of(world)) is not None and seen.waiting == 1, "it waits for a replica")
    replica = await world.add_replica()
    replica.step = asyncio.Semaphore(0)
    await world.endpoints("demo", [replica])
    await until(lambda: replica.running == 1, "it is there")
    seen = traffic_of(world)
    assert seen is not None
    assert (seen.in_flight, seen.waiting) == (1, 0)
    before = asyncio.get_running_loop().time()
    replica.step.release()
    assert (await waits).status_code == 200
    await until(lambda: (now := traffic_of(world)) is not None and now.in_flight == 0, "it has ended")
    seen = traffic_of(world)
    assert seen is not None
    assert seen.busy_at >= before


async def test_models_of_one_service_are_one(world: World) -> None:
    replica = await world.add_replica()
    await world.route("demo")
    await world.route("alias", service="demo-workers")
    replica.step = asyncio.Semaphore(0)
    await world.endpoints("demo", [replica])
    asked = [asyncio.create_task(world.ask(**ASK | {"model": model})) for model in ("demo", "alias")]
    await until(lambda: (seen := traffic_of(world)) is not None and seen.in_flight == 2, "both are there")
    replica.step.release()
    replica.step.release()
    assert [one.status_code for one in await asyncio.gather(*asked)] == [200, 200]


async def test_the_operator_hears_of_it(world: World) -> None:
    fleet = Fleet()
    fleet.table = RouteTable({"demo": Route("demo", *KEY, port=8000)})
    now = [one(2, 1, 1.0)]
    async with listening() as ear:
        teller = Teller(Several(ear), fleet, "g/0", traffic=lambda: together(now), interval=0.3)
        task = asyncio.create_task(teller.run())
        heard = await ear.until("the traffic", lambda one: bool(one.service(KEY[1])))
        said = heard.service(KEY[1])
        assert (said["in_flight"], said["waiting"], said["idle_seconds"]) == (2, 1, 0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def said(heard: Heard) -> dict[str, Any]:
    return heard.service(f"{MODEL}-workers")


class Held:
    """Requests, each over a connection of its own, whose replica answers when it is let."""

    def __init__(self, replica: Replica) -> None:
        self.go_on = asyncio.Event()
        replica.answer = self._answer
        self._replica = replica

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await self.go_on.wait()
        return web.json_response(self._replica.unary(MODEL))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_real_processes_tell_the_sum_of_all_and_idle_only_when_none_has_any(tmp_path: Path) -> None:
    key = tmp_path / "demand-key"
    key.write_text(OPERATOR_KEY)
    async with (
        listening() as ear,
        gateway_process(
            tmp_path,
            RYZANSTEIN_GATEWAY_PROCESSES="3",
            RYZANSTEIN_OPERATOR_URL=f"http://127.0.0.1:{ear.port}",
            RYZANSTEIN_DEMAND_KEY_FILE=str(key),
        ) as gateway,
    ):
        await gateway.until_metric("ryzanstein_gateway_processes_ready", 3)
        held = Held(gateway.replicas[0])

        async def ask() -> int:
            async with gateway.client() as client:
                try:
                    return (
                        await client.post("/v1/chat/completions", json={"model": MODEL, "messages": []})
                    ).status_code
                except Exception:
                    return 0

        tasks = [asyncio.create_task(ask()) for _ in range(24)]
        await until_told(ear, "all that run", lambda one: one["in_flight"] == 24)
        assert ear.heard[-1].service(f"{MODEL}-workers")["idle_seconds"] == 0.0
        assert len({json.dumps(one.view["sender"]) for one in ear.heard}) == 1, "one speaks for all"
        spared = gateway.members[0]
        victim = gateway.members[-1]
        assert victim != spared
        os.kill(victim, signal.SIGKILL)
        fewer = await until_told(ear, "the dead one's are gone", lambda one: one["in_flight"] < 24)
        assert said(fewer)["in_flight"] > 0
        let_go = time.monotonic()
        held.go_on.set()
        codes = await asyncio.wait_for(asyncio.gather(*tasks), CLIENT_SECONDS)
        assert codes.count(200) == said(fewer)["in_flight"]
        calm = await until_told(ear, "idle", lambda one: one["in_flight"] == 0 and one["idle_seconds"] > 0)
        assert said(calm)["idle_seconds"] <= calm.at - let_go + 0.1, "in tenths of a second"
        later = await until_told(
            ear, "idle for longer", lambda one: one["idle_seconds"] > said(calm)["idle_seconds"] + 2
        )
        assert said(later)["in_flight"] == 0
        assert await ask() == 200
        await until_told(ear, "no longer idle", lambda one: one["idle_seconds"] < said(later)["idle_seconds"])


async def until_told(ear: Ear, what: str, condition: Any) -> Heard:
    """Without other news a view comes every four seconds."""
    return await ear.until(what, lambda one: bool(said(one)) and condition(said(one)), CLIENT_SECONDS)
