"""What is told of a request: enough to find and to bill it, never what was said; and no client makes it grow."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web

from gateway_world import CLIENT_SECONDS, KEY, World, open_world, write_key
from replica import Replica
from ryzanstein_gateway.auth import cache_salt, key_id
from ryzanstein_gateway.logs import AccessEntry, JsonFormatter
from ryzanstein_worker.contract import HEADER_USAGE

SECRET = "the secret prompt"
ASK: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": SECRET}]}


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the gateway has logged."""
    return [record for record in caplog.records if record.name.startswith("ryzanstein")]


def entries(caplog: pytest.LogCaptureFixture) -> list[AccessEntry]:
    """The access log."""
    return [record.__dict__["access"] for record in lines(caplog) if "access" in record.__dict__]


async def served(world: World) -> Replica:
    """A replica that says what each answer cost."""
    one = await world.add_replica()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        return web.json_response(one.unary(asked["model"]), headers={HEADER_USAGE: "7 3"})

    one.answer = answer
    await world.route("demo")
    await world.endpoints("demo", [one])
    return one


async def test_a_line_names_request_key_replica_tokens_and_times_and_nothing_that_was_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await served(world)
    reply = await world.client.post("/v1/chat/completions?q=hidden", json=ASK, headers={"x-request-id": "mine-1"})
    assert reply.status_code == 200
    assert HEADER_USAGE not in reply.headers, "for the gateway alone"
    (entry,) = entries(caplog)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    assert (entry.request_id, entry.protocol, entry.method) == ("mine-1", "http", "POST")
    assert (entry.model, entry.status, entry.tries, entry.migrations) == ("demo", 200, 1, 0)
    assert (entry.prompt_tokens, entry.completion_tokens) == (7, 3)
    assert entry.key_id == key_id(digest)
    assert entry.endpoint == "pod-127.0.0.2"
    assert 0 <= entry.queue_ms <= (entry.first_byte_ms or 0) <= entry.duration_ms
    text = "\n".join(JsonFormatter().format(record) for record in lines(caplog))
    for secret in (SECRET, KEY, digest, cache_salt(digest), "hidden", "127.0.0.2-"):
        assert secret not in text


async def test_a_refusal_is_told_with_its_code_and_its_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await world.ask(model="nobody-knows-it", messages=[])
    await world.client.post("/v1/chat/completions", json=ASK, headers={"authorization": "Bearer wrong"})
    unknown, keyless = entries(caplog)
    assert (unknown.status, unknown.outcome, unknown.model) == (404, "model_not_found", "")
    assert unknown.key_id
    assert (keyless.status, keyless.outcome, keyless.key_id) == (401, "invalid_api_key", "")


def test_a_key_id_tells_keys_apart_and_nothing_else() -> None:
    digests = [hashlib.sha256(f"key-{number}".encode()).hexdigest() for number in range(100)]
    ids = {key_id(digest) for digest in digests}
    assert len(ids) == 100
    assert all(len(one) == 12 and one not in digest for one in ids for digest in digests)


@pytest.mark.slow
async def test_no_client_can_make_the_metrics_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        write_key(tmp_path / "keysets", "default", f"key-{number}", f"sk-{number}")
    async with open_world(tmp_path, monkeypatch) as world:
        await served(world)

        async def throw(number: int) -> None:
            """Something new in every place that a client can fill in."""
            headers = {
                "x-request-id": f"r-{number}",
                "user-agent": f"a-{number}",
                "x-forwarded-for": f"10.0.0.{number}",
            }
            await world.client.post("/v1/chat/completions", json=ASK, headers=headers)
            await world.client.post("/v1/completions", json={"model": f"m-{number}", "prompt": ""}, headers=headers)
            await world.client.get(f"/v1/models/m-{number}", headers=headers)
            await world.client.request(["PUT", "PATCH", "DELETE"][number % 3], f"/p-{number}", headers=headers)
            listed = await world.client.get("/v1/models", headers={"authorization": f"Bearer sk-{number}"})
            assert listed.status_code == 200

        async def series() -> set[str]:
            async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
                text = (await client.get(f"http://127.0.0.1:{world.gateway.health_port}/metrics")).text
            names = {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
            return {name for name in names if "_health_checks_" not in name}  # these go on by themselves

        for number in range(3):
            await throw(number)
        before = await series()
        for number in range(3, 20):
            await throw(number)
        assert not await series() - before
