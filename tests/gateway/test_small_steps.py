"""What is done beside requests is done in small steps, holds little, and forgets models that are gone."""

import asyncio
import json
import time
import tracemalloc

import pytest
from aiohttp import web
from yarl import URL

from ryzanstein_gateway.account import Account
from ryzanstein_gateway.exchange import Exchange
from ryzanstein_gateway.exemplars import Exemplars
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.operators import open_session
from ryzanstein_gateway.overview import MOST_BYTES, _get, read
from ryzanstein_gateway.recent import WINDOW_SECONDS
from ryzanstein_worker.contract import OVERVIEW_PATH

MANY = 1000


def exchange() -> Exchange:
    return Exchange.begin({"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []})


async def test_a_long_overview_is_read_in_turns() -> None:
    body = json.dumps({"services": [{"namespace": "a", "name": str(number)} for number in range(MANY)]}).encode()
    reading, turns = asyncio.create_task(read(body)), 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(reading.result().services) == MANY
    assert turns >= MANY / 50


async def test_a_long_overview_is_held_once_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryzanstein_gateway.operators.CALL_SECONDS", 30.0)
    long = b"x" * (MOST_BYTES - 1)

    async def answer(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        for at in range(0, len(long), 65_536):
            await reply.write(long[at : at + 65_536])
        return reply

    app = web.Application()
    app.router.add_get(OVERVIEW_PATH, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (address,) = runner.addresses
        url = URL.build(scheme="http", host=address[0], port=address[1], path=OVERVIEW_PATH)
        async with open_session() as session:
            tracemalloc.start()
            try:
                body = await _get(session, url, {})
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert body is not None
        assert bytes(body) == long
        assert peak < 1.6 * len(long), "no piece makes a copy of all that came before it"
    finally:
        await runner.cleanup()


def test_the_last_minute_of_a_model_that_is_gone_is_forgotten() -> None:
    account, ended = Account(Metrics(), Exemplars()), exchange()
    ended.model, ended.status = "demo", 200
    account.close(ended)
    now = time.monotonic()
    assert account.recent("demo", now)[0] == 1
    assert account.recent("demo", now + 2 * WINDOW_SECONDS) == (0, b"")
    assert not account._recent
    assert account.recent("demo", now + 2 * WINDOW_SECONDS) == (0, b"")
