"""Who goes on, who waits and who is turned away: the gateway's own rules, and what a client sees of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from gateway_world import KEY, World, until, write_key
from replica import event_stream
from ryzanstein_gateway.admission import Admission, Permit, Shares
from ryzanstein_gateway.auth import Principal
from ryzanstein_gateway.errors import Refusal, Refused
from ryzanstein_gateway.exchange import Exchange, Header
from ryzanstein_gateway.line import Capacity
from ryzanstein_gateway.lines import FORGET_SECONDS
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.quota import Quota
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.shared_table import SharedTable
from ryzanstein_gateway.vitals import Status
from ryzanstein_gateway.wake import Waker
from ryzanstein_worker.contract import HEADER_PRIORITY, HEADER_USAGE

ASK: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
ROUTE = Route(model="demo", namespace="models", service="demo-workers", port=8000)


class Nowhere:
    """An outlet that a test does not look at."""

    started = False

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        self.started = True

    async def write(self, chunk: bytes) -> None: ...

    async def end(self) -> None: ...

    async def cut(self, refusal: Refusal, *, event_stream: bool) -> None: ...


@dataclass
class Desk:
    """Admission by itself, with replicas of which the test says what they take."""

    capacity: Capacity = field(default_factory=lambda: Capacity(1, 1))
    metrics: Metrics = field(default_factory=Metrics)
    table: SharedTable = field(default_factory=SharedTable.private)
    order: list[str] = field(default_factory=list)
    later: float = 0.0
    """Seconds that its clock is ahead: how long a wait is felt to last is the test's to say."""

    def __post_init__(self) -> None:
        quota, waker = Quota(self.table, 1), Waker(Operators("", None), "test")
        self.admission = Admission(
            lambda _: self.capacity,
            quota,
            waker,
            self.metrics,
            shares=Shares(),
            high=frozenset({"first"}),
            clock=lambda: time.monotonic() + self.later,
        )

    async def admit(self, name: str = "a", priority: str = "normal", route: Route = ROUTE) -> Permit:
        """One request of the key `name`."""
        headers = [(HEADER_PRIORITY.encode(), priority.encode())]
        principal = Principal(frozenset({"default", "first"}), name)
        permit = await self.admission.admit(route, principal, headers, b"x" * 40, Nowhere())
        self.order.append(name)
        return permit

    async def waits(self, number: int) -> None:
        """Until so many wait."""
        await until(lambda: self.admission.waiting("demo") == number, f"{number} wait")


def end(permit: Permit) -> None:
    permit.close(Exchange("POST", "/", [], "id"))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    one = Desk()
    yield one
    one.table.close()


async def test_who_waits_goes_on_when_another_ends_by_class_and_key(desk: Desk) -> None:
    running = await desk.admit("first")
    waiting = []
    for name, priority in (("low", "low"), ("many", "normal"), ("many", "normal"), ("few", "normal"), ("top", "high")):
        waiting.append(asyncio.create_task(desk.admit(name, priority)))
        await desk.waits(len(waiting))
    end(running)
    for _ in waiting:
        done, _ = await asyncio.wait(
            [task for task in waiting if not task.done()], return_when="FIRST_COMPLETED", timeout=30
        )
        await asyncio.sleep(0)
        for task in done:
            end(task.result())
    assert desk.order == ["first", "top", "many", "few", "many", "low"]


async def test_a_full_queue_and_a_long_wait_are_refused_with_the_time_to_come_again(desk: Desk) -> None:
    route = Route(**{**_fields(ROUTE), "max_queued_requests": 1, "queue_timeout_seconds": 300})
    running = await desk.admit(route=route)
    waiting = asyncio.create_task(desk.admit(route=route))
    await desk.waits(1)
    with pytest.raises(Refused) as full:
        await desk.admit(route=route)
    assert (full.value.refusal.status, full.value.refusal.code) == (503, "overloaded")
    assert int(dict(full.value.refusal.headers)[b"retry-after"]) >= 1
    desk.later = 300
    with pytest.raises(Refused) as late:
        async with asyncio.timeout(30):
            await waiting
    assert (late.value.refusal.status, late.value.refusal.code) == (503, "overloaded")
    assert b"retry-after" in dict(late.value.refusal.headers)
    end(running)
    end(await desk.admit(route=route))


async def test_whoever_leaves_while_waiting_leaves_at_once_and_takes_no_place(desk: Desk) -> None:
    running = await desk.admit()
    gone = asyncio.create_task(desk.admit("gone"))
    await desk.waits(1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert desk.admission.waiting("demo") == 0
    # And the same in the very moment in which it is let go on.
    also = asyncio.create_task(desk.admit("also"))
    await desk.waits(1)
    end(running)
    also.cancel()
    await asyncio.gather(also, return_exceptions=True)
    async with asyncio.timeout(30):
        end(await desk.admit("next"))


async def test_room_that_appears_by_itself_is_seen(desk: Desk) -> None:
    desk.capacity = Capacity(0)
    waiting = [asyncio.create_task(desk.admit(str(number))) for number in range(3)]
    await desk.waits(3)
    desk.capacity = Capacity(1, 2)
    await until(lambda: sum(task.done() for task in waiting) == 2, "two went on")
    desk.capacity = Capacity(1)
    async with asyncio.timeout(30):
        await waiting[2]


async def test_classes_are_named_right_and_high_is_for_those_who_may(desk: Desk) -> None:
    for headers, key_sets, status in (
        ([(HEADER_PRIORITY.encode(), b"urgent")], {"first"}, 400),
        ([(HEADER_PRIORITY.encode(), b"low"), (HEADER_PRIORITY.encode(), b"high")], {"first"}, 400),
        ([(HEADER_PRIORITY.encode(), b"high")], {"default"}, 403),
        ([(HEADER_PRIORITY.encode(), b"high")], None, 403),
    ):
        principal = Principal(None if key_sets is None else frozenset(key_sets), "")
        with pytest.raises(Refused) as refused:
            await desk.admission.admit(ROUTE, principal, headers, b"", Nowhere())
        assert refused.value.refusal.status == status


async def test_what_was_not_served_is_not_charged(desk: Desk) -> None:
    route = Route(
        **{**_fields(ROUTE), "requests_per_minute": 1, "max_concurrent_requests": 1, "max_queued_requests": 0}
    )
    desk.capacity = Capacity(0)
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            await desk.admit(route=route)
        assert refused.value.refusal.code == "no_ready_replica"
    desk.capacity = Capacity(1)
    permit = await desk.admit(route=route)
    with pytest.raises(Refused) as refused:
        await desk.admit(route=route)
    assert refused.value.refusal.status == 429
    end(permit)


def _fields(route: Route) -> dict[str, Any]:
    return {name: getattr(route, name) for name in route.__struct_fields__}


# --- what a client sees ----------------------------------------------------------------------------------


async def test_with_no_replica_a_request_waits_for_one_and_is_answered(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    ask = asyncio.create_task(world.ask(**ASK))
    await until(lambda: world.gateway.admission.waiting("demo") == 1, "it waits")
    assert await world.metric('ryzanstein_gateway_queue_length{model="demo",priority="normal"}') == 1
    await world.endpoints("demo", [one])
    assert (await ask).json() == one.unary("demo")
    assert await world.metric('ryzanstein_gateway_queue_wait_seconds_count{model="demo",priority="normal"}') == 1
    assert await world.metric('ryzanstein_gateway_queue_length{model="demo",priority="normal"}') == 0


async def test_who_waits_in_vain_is_told_so_and_when_to_come_again(world: World) -> None:
    await world.route("demo", queueTimeoutSeconds=1)
    reply = await world.ask(**ASK)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_ready_replica")
    assert int(reply.headers["retry-after"]) >= 1
    line = 'ryzanstein_gateway_admissions_total{model="demo",outcome="no_replica",priority="normal"}'
    assert await world.metric(line) == 1


async def test_a_restart_of_the_only_replica_costs_time_and_no_request(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    await one.stop()
    asks = [asyncio.create_task(world.ask(**ASK)) for _ in range(8)]
    await until(lambda: world.gateway.admission.waiting("demo") == 8, "all were refused and wait")
    await one.start()
    assert {reply.status_code for reply in await asyncio.gather(*asks)} == {200}
    assert len(one.received) == 8


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue(world: World) -> None:
    await world.route("demo")
    ask = asyncio.create_task(world.ask(**ASK))
    await until(lambda: world.gateway.admission.waiting("demo") == 1, "it waits")
    ask.cancel()
    await until(lambda: world.gateway.admission.waiting("demo") == 0, "it has left")


async def test_requests_per_minute_are_of_each_key_and_said_as_openai_says_them(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo", requestsPerMinute=2)
    await world.endpoints("demo", [one])
    first, second, third = [await world.ask(**ASK) for _ in range(3)]
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert (second.status_code, third.status_code) == (200, 429)
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 31
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    write_key(world.keys, "default", "other", "sk-other")
    world.gateway._keys.refresh()
    other = await world.client.post("/v1/chat/completions", json=ASK, headers={"authorization": "Bearer sk-other"})
    assert other.status_code == 200
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{world.client.base_url}/v1", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ASK)
    assert len(one.received) == 3


async def test_concurrent_requests_are_bounded_per_key(world: World) -> None:
    one = await world.add_replica()
    one.step = asyncio.Semaphore(0)
    await world.route("demo", maxConcurrentRequests=2)
    await world.endpoints("demo", [one])
    asks = [asyncio.create_task(world.ask(**ASK)) for _ in range(2)]
    await until(lambda: one.running == 2, "both run")
    refused = await world.ask(**ASK)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    for _ in range(3):
        one.step.release()
    assert {reply.status_code for reply in await asyncio.gather(*asks)} == {200}
    assert (await world.ask(**ASK)).status_code == 200, "their places are free again"


async def test_tokens_are_counted_as_the_reply_tells_them(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo", tokensPerMinute=1000)
    await world.endpoints("demo", [one])

    async def whole(request: web.Request) -> web.StreamResponse:
        reply = one.unary("demo") | {"usage": {"prompt_tokens": 400, "completion_tokens": 500, "total_tokens": 900}}
        reply["choices"][0]["message"]["content"] = '"usage":{"prompt_tokens":1,"completion_tokens":1}'
        return web.json_response(reply)

    one.answer = whole
    first, second, third = [await world.ask(**ASK) for _ in range(3)]
    assert (first.status_code, second.status_code) == (200, 200), "below the limit before it is asked"
    assert (third.status_code, third.json()["error"]["type"]) == (429, "tokens")
    assert 40 <= int(third.headers["retry-after"]) <= 60  # 1800 tokens were used, at 1000 a minute


async def test_tokens_that_our_worker_tells_in_a_header_count(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo", tokensPerMinute=1000)
    await world.endpoints("demo", [one])

    async def whole(request: web.Request) -> web.StreamResponse:
        return web.json_response(one.unary("demo"), headers={HEADER_USAGE: "700 800"})

    one.answer = whole
    first, second = [await world.ask(**ASK) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert HEADER_USAGE not in first.headers


async def test_tokens_of_a_stream_are_counted_too(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo", tokensPerMinute=100)
    await world.endpoints("demo", [one])

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        for index in range(150):
            await response.write(one.piece("demo", index))
        await response.write(b"data: [DONE]\n\n")
        return response

    one.answer = stream
    assert (await world.ask(**ASK, stream=True)).status_code == 200
    assert (await world.ask(**ASK, stream=True)).status_code == 429


async def test_limits_hold_over_all_processes_of_a_pod(tmp_path: Path) -> None:
    route = Route(**{**_fields(ROUTE), "requests_per_minute": 4, "max_concurrent_requests": 3})
    tables = [SharedTable.attach(tmp_path / "limits", slot) for slot in range(2)]
    quotas = [Quota(table, 1) for table in tables]
    tickets = [quotas[index % 2].enter(route, "key", 10) for index in range(3)]
    for quota in quotas:
        with pytest.raises(Refused, match="rate_limit_exceeded"):
            quota.enter(route, "key", 10)
    for ticket in tickets:
        assert ticket is not None
        ticket.leave(10)
    assert quotas[0].enter(route, "key", 10) is not None
    with pytest.raises(Refused):
        quotas[1].enter(route, "key", 10)
    assert quotas[1].enter(route, "another", 10) is not None
    for table in tables:
        table.close()


async def test_limits_are_divided_among_pods() -> None:
    route = Route(**{**_fields(ROUTE), "requests_per_minute": 10})
    table = SharedTable.private()
    quota, passed = Quota(table, 2), 0
    for _ in range(10):
        try:
            quota.enter(route, "key", 1)
            passed += 1
        except Refused:
            pass
    assert passed == 5
    table.close()


async def test_what_a_replica_cannot_take_waits_here_and_the_first_place_that_is_free_is_its_own(world: World) -> None:
    one = await world.add_replica()
    one.step = asyncio.Semaphore(0)
    await world.route("demo")
    await world.endpoints("demo", [one])
    fleet = world.gateway._fleet
    route = fleet.table.by_model["demo"]
    (endpoint,) = fleet.endpoints(route)
    fleet.replica(endpoint, route).told(Status(max_num_seqs=2))
    asks = [asyncio.create_task(world.ask(**ASK)) for _ in range(5)]
    await until(lambda: one.running == 3, "a batch of two, and one more that waits there")
    await until(lambda: world.gateway.admission.waiting("demo") == 2, "the others wait here")
    one.step.release()
    await until(lambda: len(one.received) == 4, "the next went on")
    assert one.running == 3
    for _ in asks:
        one.step.release()
    assert {reply.status_code for reply in await asyncio.gather(*asks)} == {200}


@pytest.mark.slow
async def test_under_overload_some_are_refused_at_once_and_the_rest_answered_in_time(world: World) -> None:
    one = await world.add_replica()
    places, seconds, timeout, offered = 5, 0.2, 2, 400
    asks: list[asyncio.Task[httpx.Response]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        assert one.running <= places
        due = min(offered, len(asks) + 4 * places)
        await asyncio.sleep(seconds)
        while len(asks) < due:  # four are asked for each that is answered, however slowly this machine asks
            await asyncio.sleep(0.01)
        return web.json_response(one.unary("demo"))

    one.answer = answer
    await world.route("demo", queueTimeoutSeconds=timeout, maxQueuedRequests=1000)
    await world.endpoints("demo", [one])
    fleet = world.gateway._fleet
    route = fleet.table.by_model["demo"]
    (endpoint,) = fleet.endpoints(route)
    fleet.replica(endpoint, route).told(Status(max_num_seqs=places - 1))
    for _ in range(offered // 10):  # ten in the time in which two and a half can be answered
        asks += [asyncio.create_task(world.ask(**ASK)) for _ in range(10)]
        await asyncio.sleep(seconds / 2)
    replies = await asyncio.gather(*asks)
    answered = [reply.elapsed.total_seconds() for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert len(answered) + len(refused) == offered
    assert {reply.status_code for reply in refused} == {503}
    assert {reply.json()["error"]["code"] for reply in refused} == {"overloaded"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert len(answered) >= 60, "of the hundred and more that could be"
    assert len(refused) >= 100, "it was no overload"
    line = 'ryzanstein_gateway_queue_wait_seconds_bucket{le="5.0",model="demo",priority="normal"}'
    total = 'ryzanstein_gateway_queue_wait_seconds_count{model="demo",priority="normal"}'
    assert await world.metric(line) == await world.metric(total), "nobody waited much longer than the timeout"
    assert (await world.ask(**ASK)).status_code == 200


async def test_a_model_that_nobody_asks_for_any_more_is_forgotten(desk: Desk) -> None:
    def told() -> list[tuple[int, int]]:
        rows = desk.admission.traffic(lambda model, now: (0, b""))
        return [(row.in_flight, row.waiting) for row in rows]

    permit = await desk.admit()
    desk.later = 2 * FORGET_SECONDS
    assert told() == [(1, 0)], "it still runs, however long"
    end(permit)
    desk.later += FORGET_SECONDS - 60
    assert told() == [(0, 0)]
    desk.later += 120
    assert told() == []
    assert not desk.admission._lines._models
    desk.capacity = Capacity(0)
    waiting = asyncio.create_task(desk.admit())
    await desk.waits(1)
    desk.admission._lines._models["demo"].busy_at -= 2 * FORGET_SECONDS
    assert told() == [(0, 1)], "it still waits, however long"
    desk.capacity = Capacity(1, 1)
    end(await waiting)
    assert told() == [(0, 0)]
