"""The log's level changes while the gateway runs, in all its processes; no level prints what users say."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gateway_process import MODEL, GatewayProcess, gateway_process
from gateway_world import KEY, World, until
from journaled import End, Journaled
from processes import until as until_soon
from ryzanstein_gateway.level import Level, apply
from ryzanstein_gateway.logs import JsonFormatter
from ryzanstein_worker.contract import REALTIME

SECRET = "nobody may read this"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}]}
CHANGED = "the log's level is"
GIVE_UP_SECONDS = 60.0


@pytest.fixture
def levels() -> Iterator[None]:
    """The levels of before, afterwards."""
    names = ("", "ryzanstein_gateway", "ryzanstein")
    before = {name: logging.getLogger(name or None).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name or None).setLevel(level)


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("configured", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_debugging_shows_our_own_words_and_no_librarys(configured: str) -> None:
    apply(configured)
    level = Level(configured)
    quiet = logging.getLogger("websockets").getEffectiveLevel()
    assert quiet >= logging.INFO
    level.debug(True)
    assert logging.getLogger("ryzanstein_gateway.proxy").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("websockets").isEnabledFor(logging.DEBUG)
    level.debug(False)
    assert logging.getLogger("ryzanstein_gateway.proxy").getEffectiveLevel() == logging.getLevelName(configured)
    assert logging.getLogger("websockets").getEffectiveLevel() == quiet


@pytest.mark.usefixtures("levels")
def test_each_change_is_said_once_and_no_change_never(caplog: pytest.LogCaptureFixture) -> None:
    apply("ERROR")
    level, told = Level("ERROR"), list[bool]()
    level.changed = told.append
    for wanted in (False, True, True, False, False):
        level.debug(wanted)
    said = [record.getMessage() for record in caplog.records if CHANGED in record.getMessage()]
    assert [line.split()[4] for line in said] == ["DEBUG", "ERROR"]
    assert told == [True, False]


async def test_every_line_about_a_request_names_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ryzanstein_gateway")
    replicas = [await world.add_replica() for _ in range(2)]
    once = [End.RESET]  # whichever is asked first is lost
    for one in replicas:
        one.answer = Journaled(ends=once, end_after=3).answer
    await world.route("demo")
    await world.endpoints("demo", replicas)
    body = ASK | {"model": "demo", "stream": True, "max_tokens": 8}
    reply = await world.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert reply.text.endswith("data: [DONE]\n\n")
    await until(lambda: any("access" in record.__dict__ for record in caplog.records), "its line is there")
    about = [json.loads(JsonFormatter().format(record)) for record in caplog.records if _is_of_a_request(record)]
    messages = " / ".join(line["message"] for line in about)
    for word in ("in line for demo", "try 1 at", "lost", "try 2 at", "request"):
        assert word in messages
    assert {line.get("request_id") for line in about} == {"mine-1"}
    assert SECRET not in json.dumps(about)


def _is_of_a_request(record: logging.LogRecord) -> bool:
    parts = ("proxy", "pipeline", "access", "app", "delivery", "realtime", "grpc_api")
    return record.name in {f"ryzanstein_gateway.{part}" for part in parts}


async def ask_all(gateway: GatewayProcess) -> None:
    """Requests over several connections, and one over a WebSocket."""
    for _ in range(12):
        async with gateway.client() as client:
            assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
    url = f"ws://127.0.0.1:{gateway.port}{REALTIME}"
    async with connect(url, additional_headers={"authorization": f"Bearer {KEY}"}, proxy=None) as socket:
        await socket.send(json.dumps({"type": "create", "id": "1", "kind": "chat", "request": ASK}))
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while json.loads(await socket.recv())["type"] == "event":
                pass


async def until_each_shows(gateway: GatewayProcess, processes: int, *, debug: bool) -> None:
    """Ask until each process has shown by a request of its own whether it tells of tries. A process writes its lines
    in order, so those of earlier requests have been read as well then."""
    left = {None} if processes == 1 else set(range(processes))
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while left:
            async with gateway.client() as client:
                reply = await client.post("/v1/chat/completions", json=ASK)
            assert reply.status_code == 200
            name = reply.headers["x-request-id"]
            await until_soon(lambda name=name: bool(lines(gateway, "request", name)), GIVE_UP_SECONDS, "its line")  # type: ignore[misc]  # bound now
            (line,) = lines(gateway, "request", name)
            if bool(lines(gateway, "try ", name)) == debug:
                left.discard(line.get("process"))


def lines(gateway: GatewayProcess, begin: str, request_id: str) -> list[dict[str, Any]]:
    """Of one request those whose message begins so."""
    found = [one for one in gateway.records if one.get("request_id") == request_id]
    return [one for one in found if one["message"].startswith(begin)]


def tries(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [one for one in gateway.records if one["level"] == "DEBUG" and one["message"].startswith("try ")]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2])
async def test_signals_change_the_level_of_every_process_and_of_those_that_come_later(
    tmp_path: Path, processes: int
) -> None:
    async with gateway_process(tmp_path, RYZANSTEIN_GATEWAY_PROCESSES=str(processes)) as gateway:
        if processes > 1:
            await gateway.until_metric("ryzanstein_gateway_processes_ready", processes)
        await ask_all(gateway)
        await until_each_shows(gateway, processes, debug=False)
        assert tries(gateway) == []
        gateway.process.send_signal(signal.SIGUSR1)
        await until_soon(lambda: len(changes(gateway)) == 1, GIVE_UP_SECONDS, "the change is said, once")
        await until_each_shows(gateway, processes, debug=True)
        await all_tell(gateway)
        if processes > 1:
            await replace_one(gateway)
            await until_each_shows(gateway, processes, debug=True)  # the newcomer as well
            await all_tell(gateway)
        assert all(len(one["request_id"]) >= 32 for one in tries(gateway))
        gateway.process.send_signal(signal.SIGUSR2)
        await until_soon(lambda: len(changes(gateway)) == 2, GIVE_UP_SECONDS, "the change back is said")
        await until_each_shows(gateway, processes, debug=False)
        before = len(tries(gateway))
        await ask_all(gateway)
        await until_each_shows(gateway, processes, debug=False)
        assert len(tries(gateway)) == before
        assert gateway.process.returncode is None
        assert SECRET not in json.dumps(gateway.records)
        assert KEY not in json.dumps(gateway.records)


async def all_tell(gateway: GatewayProcess) -> None:
    """Each of the requests has its try in the log."""
    before = len(tries(gateway))
    await ask_all(gateway)
    await until_soon(lambda: len(tries(gateway)) == before + 13, GIVE_UP_SECONDS, "each try is told")


def changes(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [one for one in gateway.records if CHANGED in one["message"]]


async def replace_one(gateway: GatewayProcess) -> None:
    """Kill a member and wait for its successor."""
    victim = gateway.members[0]
    os.kill(victim, signal.SIGKILL)
    await until_soon(
        lambda: victim not in gateway.members and len(gateway.members) == 2, GIVE_UP_SECONDS, "it is replaced"
    )
    await gateway.until_metric("ryzanstein_gateway_processes_ready", 2)
