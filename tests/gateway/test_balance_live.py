"""The policies in a running gateway: what the route table says is what happens to requests, and can be seen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway_world import World, open_world
from replica import Replica

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
    for name in (b"anna", b"berta", b"clara", b"dora"):
        asked = [sum(name in body for _, body in one.received) for one in ones]
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
    await asyncio.wait_for(_until_policy(world, "PrefixAware"), 5)
    before = [len(one.received) for one in ones]
    await converse(world, "berta", 4)
    assert sorted(len(one.received) - was for one, was in zip(ones, before, strict=True)) == [0, 4]


async def _until_policy(world: World, policy: str) -> None:
    while world.gateway._fleet.table.by_model[MODEL].policy != policy:
        await asyncio.sleep(0.005)


async def test_a_tenant_s_prompts_lead_no_other_tenant_anywhere(world: World) -> None:
    # Prompts of two keys are told apart by their salts; of one key they are not.
    from ryzanstein_gateway.auth import Principal
    from ryzanstein_gateway.pipeline import _prefix_keys, read_generation

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
