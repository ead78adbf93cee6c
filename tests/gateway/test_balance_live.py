"""The policies in a running gateway: what the route table says is what happens to requests, and can be seen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from gateway_world import World, open_world, until
from ports import free_port
from replica import Replica
from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.pipeline import _prefix_keys, read_generation
from ryzanstein_worker.contract import HEALTH_STATUS

MODEL = "chat"
SYSTEM = {"role": "system", "content": "You answer in one word. " * 60}


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with open_world(tmp_path, monkeypatch) as opened:
        yield opened


async def serve(world: World, policy: str, replicas: int = 2) -> list[Replica]:
    """A model of so many replicas under a policy."""
    ones = [await world.add_replica() for _ in range(replicas)]
    await world.route(MODEL, policy=policy)
    await world.endpoints(MODEL, ones)
    return ones


async def converse(world: World, name: str, turns: int) -> None:
    """A conversation of one client: each turn repeats all before it."""
    messages: list[dict[str, Any]] = [SYSTEM, {"role": "user", "content": f"{name} " * 400}]
    for turn in range(turns):
        response = await world.ask(model=MODEL, messages=messages)
        assert response.status_code == 200
        answer = {"role": "assistant", "content": f"{name} {turn} " * 200}
        messages += [answer, {"role": "user", "content": f"and {turn}? " * 200}]


async def test_a_conversation_stays_where_its_beginning_is_cached(world: World) -> None:
    ones = await serve(world, "PrefixAware", replicas=3)
    for name in ("anna", "berta", "clara", "dora"):
        await converse(world, name, 4)
        asked = [sum(name.encode() in body for _, body in one.received) for one in ones]
        assert sorted(asked) == [0, 0, 4]


async def test_round_robin_goes_round_and_so_does_adaptive_when_all_is_quiet(world: World) -> None:
    for policy in ("RoundRobin", "Adaptive"):
        ones = await serve(world, policy)
        for _ in range(6):
            await world.ask(model=MODEL, messages=[SYSTEM])
        assert [len(one.received) for one in ones] == [3, 3]


async def test_another_policy_in_the_table_holds_from_the_next_request_on(world: World) -> None:
    ones = await serve(world, "RoundRobin")
    await converse(world, "anna", 4)
    assert [len(one.received) for one in ones] == [2, 2]
    await world.route(MODEL, policy="PrefixAware")
    await until(lambda: world.gateway._fleet.table.by_model[MODEL].policy == "PrefixAware", "the policy is known")
    before = [len(one.received) for one in ones]
    await converse(world, "berta", 4)
    assert sorted(len(one.received) - was for one, was in zip(ones, before, strict=True)) == [0, 4]


async def test_a_tenant_s_prompts_lead_no_other_tenant_anywhere(world: World) -> None:
    # Prompts of two keys are told apart by their salts; of one key they are not.
    await serve(world, "PrefixAware")
    body = b'{"model": "chat", "messages": [{"role": "user", "content": "' + b"x" * 3000 + b'"}]}'
    route = world.gateway._fleet.table.by_model[MODEL]
    keys = [
        _prefix_keys(read_generation("/v1/chat/completions", body, Principal(frozenset(), salt)), route)
        for salt in ("aa", "bb", "aa")
    ]
    assert keys[0] == keys[2]
    assert len(keys[0]) == 5
    assert not set(keys[0]) & set(keys[1])


async def test_the_metrics_tell_what_each_choice_was_made_by(world: World) -> None:
    await serve(world, "PrefixAware")
    await converse(world, "anna", 3)
    counter = f'ryzanstein_gateway_routing_choices_total{{model="{MODEL}",policy="PrefixAware",why="%s"}}'
    assert await world.metric(counter % "prefix") == 2
    assert await world.metric(counter % "turn") == 1


@asynccontextmanager
async def health_page(host: str, port: int, page: dict[str, Any]) -> AsyncIterator[None]:
    """A replica's health page; what `page` holds at the time."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"phase": "serving", "ready": True, "epoch": "1", "beat_age": 0.0, **page})

    app = web.Application()
    app.router.add_get(HEALTH_STATUS, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_what_replicas_say_of_themselves_decides_within_a_second_or_two(world: World) -> None:
    port = free_port()
    ones = [await world.add_replica() for _ in range(2)]
    pages: list[dict[str, Any]] = [{"running": 1, "max_num_seqs": 16}, {"running": 9, "max_num_seqs": 16}]
    for one, page in zip(ones, pages, strict=True):
        await world.stack.enter_async_context(health_page(one.host, port, page))
    await world.route(MODEL, healthPort=port)
    await world.endpoints(MODEL, ones)
    for busy in (1, 0):
        pages[busy]["running"], pages[1 - busy]["running"] = 9, 1
        await until(lambda busy=busy: running_at(world, ones[busy]) == 9, "the page was read")  # type: ignore[misc]
        await until(lambda busy=busy: running_at(world, ones[1 - busy]) == 1, "the other too")  # type: ignore[misc]
        before = [len(one.received) for one in ones]
        for _ in range(6):
            await world.ask(model=MODEL, messages=[SYSTEM])
        assert len(ones[busy].received) == before[busy]
        assert len(ones[1 - busy].received) == before[1 - busy] + 6


def running_at(world: World, one: Replica) -> int:
    """What the gateway was last told that runs at a replica."""
    states = {state.endpoint.host: state for state in world.gateway._fleet.to_check()}
    status = states[one.host].vitals.status if one.host in states else None
    return status.running if status else -1
