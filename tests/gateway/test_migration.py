"""A replica that is lost with a request is not seen by the client: another goes on where it ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway_world import World, open_world, until
from journaled import End, Journaled, Run
from replica import Replica
from ryzanstein_gateway import strikes
from ryzanstein_gateway.delivery import MAX_HELD_REPLY_BYTES

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {"model": "demo", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 12}
ENDS_OF_STREAMS = [end for end in End if end is not End.SILENCE]
CACHED = 4
"""Prompt tokens that the first replica has in its cache, and the others have not."""


@dataclass
class Pair:
    """Two replicas of the model `demo`. What is asked goes to the first, which may be lost with it."""

    world: World
    first: Replica
    second: Replica
    loses: Journaled
    keeps: Journaled

    async def ask(self, path: str = CHAT, **more: Any) -> httpx.Response:
        """One request, sent while the first is alone; the second is there before it can be needed."""
        await self.world.endpoints("demo", [self.first])
        before = len(self.first.received)
        self.loses.may_end.clear()
        async with asyncio.timeout(40):
            asked = asyncio.create_task(self.world.client.post(path, json=BODY | more))
            await until(lambda: len(self.first.received) > before or asked.done(), "the first has it", 20)
            await self.world.endpoints("demo", [self.first, self.second])
            self.loses.may_end.set()
            return await asked

    async def migrations(self, reason: str, outcome: str) -> float:
        """What the metric says."""
        labels = f'model="demo",outcome="{outcome}",reason="{reason}"'
        return await self.world.metric(f"ryzanstein_gateway_migrations_total{{{labels}}}")


async def pair(world: World, *ends: End, **changes: Any) -> Pair:
    """`ends` and `changes` are of the first."""
    loses = Journaled(ends=[*ends], **({"num_cached": CACHED, "end_after": 10} | changes))
    keeps = Journaled()
    first, second = await world.add_replica(), await world.add_replica()
    first.answer, second.answer = loses.answer, keeps.answer
    await world.route("demo")
    return Pair(world, first, second, loses, keeps)


def undisturbed(path: str = CHAT, **more: Any) -> bytes:
    """The stream of a replica that is not lost."""
    return Run(BODY | more, chat=path == CHAT, num_cached=CACHED).stream()


def code_of(reply: httpx.Response) -> str:
    """The code of an error."""
    return str(reply.json()["error"]["code"])


@asynccontextmanager
async def reading(world: World, **more: Any) -> AsyncIterator[Callable[[], bytes]]:
    """A stream that is being read; what came so far. Ends when the stream has, whole or broken."""
    got: list[bytes] = []

    async def read() -> None:
        try:
            async with world.client.stream("POST", CHAT, json=BODY | more) as reply:
                async for piece in reply.aiter_raw():
                    got.append(piece)
        except httpx.RemoteProtocolError:
            got.append(b"<broken>")

    task = asyncio.create_task(read())
    try:
        yield lambda: b"".join(got)
        async with asyncio.timeout(40):
            await task
    finally:
        task.cancel()


def told(stream: bytes) -> str:
    """The code of the error that a broken stream ends with."""
    assert stream.endswith(b"<broken>")
    assert b"[DONE]" not in stream
    assert b"half" not in stream
    last = stream.removesuffix(b"<broken>").strip().split(b"\n\n")[-1]
    return str(json.loads(last.removeprefix(b"data: "))["error"]["code"])


async def test_a_stream_goes_on_byte_for_byte_where_its_replica_was_lost(world: World) -> None:
    two = await pair(world)
    for end in ENDS_OF_STREAMS:
        two.loses.ends = [end]
        reply = await two.ask()
        assert (reply.status_code, reply.content) == (200, undisturbed()), end
        assert len(two.keeps.resumed) == 1, f"after {end} the stream was not continued"
        two.keeps.resumed.clear()
        world.forget()
    assert two.keeps.complaints == []
    assert await two.migrations("crash", "resumed") == len(ENDS_OF_STREAMS) - 1
    assert await two.migrations("drain", "resumed") == 1
    assert await world.metric('ryzanstein_gateway_migration_gap_seconds_count{model="demo"}') == len(ENDS_OF_STREAMS)


@pytest.mark.parametrize(
    ("path", "more"),
    [(CHAT, {"n": 2, "seed": 7}), (COMPLETIONS, {"prompt": ["a", "b"]}), (COMPLETIONS, {"prompt": [1, 2], "n": 2})],
)
async def test_every_choice_goes_on_wherever_it_was(world: World, path: str, more: dict[str, Any]) -> None:
    two = await pair(world)
    two.keeps.num_cached = CACHED  # for a choice that has not begun, the second's count is the true one
    for after in (1, 2, 3, 4, 5, 11, 23):
        two.loses.ends, two.loses.end_after = [End.RESET], after
        reply = await two.ask(path, **more)
        assert reply.content == undisturbed(path, **more)
        assert len(two.keeps.resumed) == 1, after
        two.keeps.resumed.clear()
        world.forget()
    assert two.keeps.complaints == []


async def test_the_clients_body_goes_on_byte_for_byte(world: World) -> None:
    two = await pair(world, End.RESET)
    body = json.dumps(BODY | {"user": "é", "unknown": 1.50}, indent=1).encode()
    await world.endpoints("demo", [two.first])
    asked = asyncio.create_task(world.client.post(CHAT, content=body, headers={"content-type": "application/json"}))
    two.loses.may_end.clear()
    await until(lambda: bool(two.first.received), "the first has it", 20)
    await world.endpoints("demo", [two.first, two.second])
    two.loses.may_end.set()
    assert (await asked).status_code == 200
    assert two.second.received[0][1].startswith(b'{"request":' + body + b',"resume":{')


async def test_nothing_of_the_journal_reaches_the_client(world: World) -> None:
    two = await pair(world)
    reply = await two.ask()
    assert reply.content == undisturbed()
    assert not [name for name in reply.headers if "ryzanstein" in name]


async def test_a_stream_survives_five_losses_and_not_six(world: World) -> None:
    for losses, whole in ((5, True), (6, False)):
        two = await pair(world, *[End.LOST_DRAIN] * losses, end_after=1)
        await world.endpoints("demo", [two.first])  # the same one again and again: there is no other
        async with reading(world) as got:
            pass
        assert (got() == undisturbed()) is whole
        if not whole:
            assert told(got()) == "upstream_error"


async def test_a_replica_that_was_the_only_one_is_waited_for(world: World) -> None:
    two = await pair(world, pace=0.01)
    await world.endpoints("demo", [two.first])
    async with reading(world, max_tokens=100) as got:
        await until(lambda: got() != b"", "the stream has begun", 20)
        await two.first.stop()
        await asyncio.sleep(0.4)
        await two.first.start()
    assert got() == undisturbed(max_tokens=100)
    assert len(two.loses.resumed) == 1
    assert two.loses.complaints == []


async def test_without_another_replica_the_client_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, replica_wait_seconds=0.5) as world:
        two = await pair(world, pace=0.01)
        await world.endpoints("demo", [two.first])
        async with reading(world, max_tokens=1000) as got:
            await until(lambda: got() != b"", "the stream has begun", 20)
            await two.first.stop()
        assert told(got()) == "upstream_error"


@pytest.mark.parametrize("streams", [True, False])
async def test_what_was_lost_before_it_was_answered_is_sent_anew(world: World, streams: bool) -> None:
    two = await pair(world, before_head=True)
    for end in (End.RESET, End.CLOSE, End.LOST_CRASH, End.LOST_DRAIN):
        two.loses.ends = [end]
        reply = await two.ask(stream=streams)
        assert reply.status_code == 200
        if streams:
            assert reply.content == Run(BODY, chat=True).stream()
        else:
            assert reply.json() == Run(BODY, chat=True).whole()
        assert two.second.received[-1][1] == two.first.received[-1][1]
        world.forget()
    assert two.keeps.resumed == []
    assert await two.migrations("crash", "anew") == 3
    assert await two.migrations("drain", "anew") == 1


@pytest.mark.parametrize(("size", "status"), [(100, 200), (2 * MAX_HELD_REPLY_BYTES, None)])
async def test_what_is_not_streamed_is_had_anew_as_long_as_nothing_of_it_was_passed_on(
    world: World, size: int, status: int | None
) -> None:
    two = await pair(world)

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(size + 1)})
        await response.prepare(request)
        for _ in range(4):
            await response.write(b" " * (size // 4))
            await asyncio.sleep(0.01)
        await two.loses.may_end.wait()
        assert request.transport is not None
        request.transport.close()
        return response

    two.first.answer = break_off
    if status is None:
        with pytest.raises(httpx.RemoteProtocolError):
            await two.ask(stream=False)
    else:
        reply = await two.ask(stream=False)
        assert (reply.status_code, reply.json()) == (status, Run(BODY, chat=True).whole())
    assert len(two.second.received) == (status is not None)


async def test_a_request_at_two_crashes_is_refused_and_never_sent_again(world: World) -> None:
    for streams in (True, False):
        two = await pair(world, End.RESET, before_head=True)
        two.keeps.ends, two.keeps.before_head = [End.CLOSE], True
        for _ in range(2):
            reply = await two.ask(stream=streams)
            assert (reply.status_code, code_of(reply)) == (422, "request_quarantined")
        assert (len(two.first.received), len(two.second.received)) == (1, 1)
        assert await two.migrations("crash", "quarantine") == 1 + (not streams)
        innocent = await two.ask(stream=streams, user="another")
        assert innocent.status_code == 200


async def test_a_stream_at_two_crashes_without_progress_ends_in_a_typed_error(world: World) -> None:
    two = await pair(world, End.RESET)
    two.keeps.ends, two.keeps.end_after = [End.RESET], 1
    two.loses.may_end.clear()
    await world.endpoints("demo", [two.first])
    async with reading(world) as got:
        await until(lambda: got() != b"", "the stream has begun", 20)
        await world.endpoints("demo", [two.first, two.second])
        two.loses.may_end.set()
    assert told(got()) == "request_quarantined"


async def test_a_stream_that_ran_well_between_two_crashes_goes_on(world: World) -> None:
    two = await pair(world, End.RESET)
    two.keeps.ends, two.keeps.end_after = [End.RESET], 9
    reply = await two.ask(max_tokens=40)
    assert reply.content == undisturbed(max_tokens=40)
    assert await two.migrations("crash", "resumed") == 2


async def test_an_answer_clears_the_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strikes, "SAME_CRASH_SECONDS", 0.0)  # each loss is a crash of its own
    two = await pair(world, End.RESET, before_head=True)
    assert (await two.ask()).status_code == 200
    two.loses.ends = [End.RESET]
    assert (await two.ask()).status_code == 200, "the first crash still counted"
    assert len(two.second.received) == 2


async def test_drains_are_no_strikes(world: World) -> None:
    two = await pair(world, End.LOST_DRAIN, end_after=1)
    two.keeps.ends, two.keeps.end_after = [End.LOST_DRAIN, End.LOST_DRAIN], 1
    assert (await two.ask()).content == undisturbed()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"plain": True}, "upstream_error"),  # without a journal it cannot take over
        ({"refuses": 400}, "upstream_error"),
        ({"refuses": 422}, "request_quarantined"),
        ({"answer_id": "cmpl-another"}, "upstream_error"),
    ],
)
async def test_where_no_replica_goes_on_the_client_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], code: str
) -> None:
    async with open_world(tmp_path, monkeypatch, replica_wait_seconds=0.3) as world:
        two = await pair(world, End.RESET)
        two.keeps = replace(two.keeps, **changes)
        two.second.answer = two.keeps.answer
        two.loses.may_end.clear()
        await world.endpoints("demo", [two.first])
        async with reading(world) as got:
            await until(lambda: got() != b"", "the stream has begun", 20)
            await world.endpoints("demo", [two.second])
            two.loses.may_end.set()
        assert told(got()) == code
        assert two.keeps.resumed, "it was not asked"


async def test_a_stream_without_a_journal_is_passed_on_and_cut_when_lost(world: World) -> None:
    two = await pair(world, End.MID_EVENT, plain=True)
    assert (await two.ask(user="whole", max_tokens=3)).content == undisturbed(max_tokens=3)
    two.loses.ends = [End.MID_EVENT]
    await world.endpoints("demo", [two.first])
    async with reading(world) as got:
        pass
    assert told(got()) == "upstream_error"
    assert await two.migrations("crash", "give_up") == 1


async def test_an_exhausted_budget_is_told_and_nothing_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, retry_percent=0, retry_reserve=0) as world:
        two = await pair(world, End.RESET, before_head=True)
        # What is in flight may be made good once: it is used up by the request itself.
        assert (await two.ask()).status_code == 200
        two.loses.ends = [End.RESET]
        reply = await two.ask(user="another")
        assert (reply.status_code, code_of(reply)) == (502, "upstream_error")
        assert len(two.second.received) == 1


async def test_a_client_that_leaves_ends_the_stream_that_was_moved(world: World) -> None:
    two = await pair(world, End.RESET)
    two.keeps.pace = 0.05
    two.loses.may_end.clear()
    await world.endpoints("demo", [two.first])
    async with asyncio.timeout(20), world.client.stream("POST", CHAT, json=BODY | {"max_tokens": 1000}) as reply:
        pieces = reply.aiter_raw()
        await anext(pieces)
        await world.endpoints("demo", [two.first, two.second])
        two.loses.may_end.set()
        while not two.second.received:
            await anext(pieces)
    async with asyncio.timeout(20):
        await two.second.left.wait()
    await until(lambda: not world.gateway._fleet.in_flight(), "nothing is counted in flight", 20)


async def test_the_access_log_counts_migrations_and_tokens(world: World, caplog: pytest.LogCaptureFixture) -> None:
    two = await pair(world, End.RESET)
    with caplog.at_level("INFO", logger="ryzanstein_gateway.access"):
        await two.ask()
        # There are other lines: the loss is warned of.
        await until(lambda: any(hasattr(one, "access") for one in caplog.records), "the access log has a line", 20)
    (entry,) = [record.access for record in caplog.records if hasattr(record, "access")]
    assert (entry.migrations, entry.completion_tokens, entry.tries) == (1, 12, 2)
