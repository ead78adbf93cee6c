"""The gateway's own checks: who gets no new requests, and whose streams are taken away."""

import asyncio
import time
from typing import Any

import pytest

from gateway_world import World, until
from journaled import End, Journaled, Run
from replica import Replica
from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.replica_state import Attempt, ReplicaState
from ryzanstein_gateway.vitals import STALL_SECONDS, Outcome, Status

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "demo", "messages": [], "stream": True, "max_tokens": 9}


async def healthy(world: World, model: str, count: int = 2) -> list[Replica]:
    """So many replicas of a model, whose pages the gateway has seen."""
    crowd = [await world.add_replica() for _ in range(count)]
    for one in crowd:
        await one.show_health(world.health_port)
    await world.route(model)
    await world.endpoints(model, crowd)
    await until(lambda: all(state_of(world, one).vitals.status for one in crowd), "each page was seen")
    return crowd


def state_of(world: World, one: Replica) -> ReplicaState:
    """What the gateway holds of a replica."""
    fleet = world.gateway._fleet
    return fleet._replicas.get(one.host) or ReplicaState(Endpoint(one.host), ("", ""), 0)


def against(world: World, one: Replica) -> str:
    """What the gateway has against a replica."""
    return state_of(world, one).against(time.monotonic())


async def asked(world: World, crowd: list[Replica], times: int = 6) -> list[int]:
    """How many of so many requests each got; all must be answered."""
    before = [len(one.received) for one in crowd]
    replies = [await world.ask(**BODY | {"stream": False}) for _ in range(times)]
    assert {reply.status_code for reply in replies} == {200}
    return [len(one.received) - had for one, had in zip(crowd, before, strict=True)]


async def test_a_replica_that_should_get_no_new_request_gets_none(world: World) -> None:
    bad, good = await healthy(world, "demo")
    assert all(await asked(world, [bad, good]))
    for change, word in (
        ({"beat_age": 4.0}, "lagging"),
        ({"beat_age": 0.0, "phase": "draining", "ready": False}, "draining"),
        ({"phase": "loading"}, "not_ready"),
    ):
        bad.health |= change
        await until(lambda word=word: against(world, bad) == word, word)  # type: ignore[misc]
        assert await asked(world, [bad, good]) == [0, 6]
    labels = f'endpoint="pod-{bad.host}",model="demo",reason="not_ready"'
    assert await world.metric(f"ryzanstein_gateway_replica_unsound{{{labels}}}") == 1
    bad.health |= {"phase": "serving", "ready": True}
    await until(lambda: not against(world, bad), "it is sound again")
    assert all(await asked(world, [bad, good]))


async def test_a_refused_check_counts_at_once_and_a_late_one_at_the_second_time(world: World) -> None:
    refuses, mute, good = await healthy(world, "demo", 3)
    await refuses.hide_health()
    mute.mute = True
    await until(lambda: against(world, refuses) == "unreachable", "the refusal was seen")
    assert state_of(world, refuses).vitals.failed.count(True) == 1
    await until(lambda: against(world, mute) == "unreachable", "the silence was seen")
    assert state_of(world, mute).vitals.failed.count(True) == 2
    assert await asked(world, [refuses, mute, good]) == [0, 0, 6]
    assert await world.metric('ryzanstein_gateway_health_checks_failed_total{reason="failed"}') >= 2
    await refuses.show_health(world.health_port)
    await until(lambda: not against(world, refuses), "it is sound again")


async def test_when_all_are_bad_all_are_tried(world: World) -> None:
    crowd = await healthy(world, "demo")
    for one in crowd:
        one.health |= {"beat_age": 99.0}
    await until(lambda: all(against(world, one) for one in crowd), "both lag")
    assert await asked(world, crowd) == [3, 3]


async def test_a_replica_without_a_page_is_judged_by_its_answers(world: World) -> None:
    crowd = [await world.add_replica() for _ in range(2)]
    await world.route("demo")
    await world.endpoints("demo", crowd)
    refused = 'ryzanstein_gateway_health_checks_failed_total{reason="refused"}'
    deadline = time.monotonic() + 20
    while await world.metric(refused) < 4:
        assert time.monotonic() < deadline, "nobody was checked"
        await asyncio.sleep(0.05)
    assert not any(against(world, one) for one in crowd)
    assert all(await asked(world, crowd))


async def test_streams_leave_a_replica_that_shows_no_sign_of_life_and_no_other(world: World) -> None:
    """Four at a time: a rank hangs, a whole worker does, one only takes long, as a prefill does, and the last one hangs
    and is the only one."""
    answerers: dict[str, tuple[Journaled, Journaled]] = {}
    lost: dict[str, tuple[Replica, Replica]] = {}
    for model in ("rank", "worker", "busy", "only"):
        first, second = await healthy(world, model)
        answerers[model] = Journaled(ends=[End.SILENCE], end_after=4), Journaled()
        first.answer, second.answer = answerers[model][0].answer, answerers[model][1].answer
        await world.endpoints(model, [first])
        lost[model] = first, second
    streams = {
        model: asyncio.create_task(world.client.post(CHAT, json=BODY | {"model": model}, timeout=50)) for model in lost
    }
    await until(lambda: all(first.running == 1 for first, _ in lost.values()), "each has its stream")
    for model in ("rank", "worker", "busy"):
        await world.endpoints(model, lost[model])
    lost["only"][0].health |= {"beat_age": STALL_SECONDS}
    lost["rank"][0].health |= {"beat_age": STALL_SECONDS}
    lost["worker"][0].mute = True
    async with asyncio.timeout(25):
        done = [await streams[model] for model in ("rank", "worker")]
    for model, reply in zip(("rank", "worker"), done, strict=True):
        assert reply.content == Run(BODY | {"model": model}, chat=True).stream()
        assert len(answerers[model][1].resumed) == 1
        await asyncio.wait_for(lost[model][0].left.wait(), 20)
        labels = f'model="{model}",outcome="resumed",reason="hang"'
        assert await world.metric(f"ryzanstein_gateway_migrations_total{{{labels}}}") == 1
    for model in ("busy", "only"):
        assert not streams[model].done()
        assert lost[model][0].running == 1
        streams[model].cancel()
        await until(lambda one=lost[model][0]: one.running == 0, "it hears that its client has left")  # type: ignore[misc]


async def waiting(attempts: list[Attempt], since: float | None) -> str:
    """An attempt as a task; how it ended."""
    attempt = Attempt()
    attempt.waiting_since = since
    attempts.append(attempt)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if attempt.absorb():
            return "given up"
        raise
    return "ended"


async def test_only_a_wait_for_the_replica_is_given_up_and_a_leaving_client_is_heard_besides() -> None:
    attempts: list[Attempt] = []
    tasks = [asyncio.create_task(waiting(attempts, since)) for since in (0.0, 7.0, None, 0.0)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    assert [attempt.give_up_if_silent(10.0, 4.0) for attempt in attempts] == [True, False, False, True]
    assert not attempts[0].give_up_if_silent(11.0, 4.0), "it was given up twice"
    await asyncio.sleep(0.01)
    assert tasks[0].result() == "given up"
    assert not tasks[1].done()
    assert not tasks[2].done()
    assert tasks[3].cancelled()
    for task in tasks:
        task.cancel()


async def test_a_restarted_group_of_ranks_begins_with_a_clean_slate() -> None:
    one = ReplicaState(Endpoint("10.0.0.1"), ("ns", "s"), 8001, lambda: 100.0)
    assert not one.told(Status(epoch="a"))
    one.failed(certain=True)
    assert one.against(100.0) == "breaker"
    assert not one.told(Status(epoch="a"))
    assert one.against(100.0) == "breaker"
    one.missed(Outcome.REFUSED)
    assert one.told(Status(epoch="b"))
    assert one.against(100.0) == ""


@pytest.mark.parametrize(("slow", "out"), [(9.0, 1), (0.5, 0)])
async def test_a_replica_that_lags_behind_the_others_is_ejected_before_it_is_dead(
    world: World, slow: float, out: int
) -> None:
    laggard, good = await healthy(world, "demo")
    fleet: Fleet = world.gateway._fleet
    for _ in range(20):
        for one, seconds in ((laggard, slow), (good, 0.3)):
            state_of(world, one).first_byte(seconds)
            state_of(world, one).answered(error=False)
    assert fleet.eject_outliers() == out
    assert (against(world, laggard), against(world, good)) == ("ejected" if out else "", "")
    took = await asked(world, [laggard, good])
    assert (took == [0, 6]) is bool(out)
