"""The page's way in: its files for everybody, what it shows for a key, and no request the slower for it."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from doorbell import Several, listening
from gateway_world import CLIENT_SECONDS, KEY, NAMESPACE, until, write_key
from page_world import PageWorld, overview, page_world, picture
from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.overview import NO_OPERATOR, UNHEARD, Reader, read
from ryzanstein_gateway.page_state import MOST_REPLICAS, _seen
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.routes import Route

UI_FILES = sorted(path.name for path in (files("ryzanstein_gateway") / "ui").iterdir())


@pytest.fixture
async def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PageWorld]:
    """A gateway and an operator."""
    async with page_world(tmp_path, monkeypatch) as one:
        yield one


def services(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in state["services"]}


@pytest.mark.parametrize("name", ["", *UI_FILES])
async def test_files_need_no_key_and_allow_nothing_from_elsewhere(shown: PageWorld, name: str) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(f"{shown.url}/{name}")
    assert reply.status_code == 200
    assert reply.content == (files("ryzanstein_gateway") / "ui" / (name or "index.html")).read_bytes()
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("name", [name for name in UI_FILES if not name.endswith(".svg")])
def test_the_files_have_nothing_inline_nothing_external_and_no_way_to_make_markup(name: str) -> None:
    text = (files("ryzanstein_gateway") / "ui" / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|<style|\son[a-z]+=|\sstyle=|javascript:", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|DOMParser", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)


async def test_the_page_is_there_without_a_slash_and_beneath_a_prefix(shown: PageWorld) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(shown.url)
    assert (reply.status_code, reply.headers["location"]) == (307, "ui/")


@pytest.mark.parametrize("path", ["/ui/../app.py", "/ui/nothing", "/ui/app.js/", "/uix", "/ui/__init__.py"])
async def test_nothing_else_is_a_file(shown: PageWorld, path: str) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(f"http://127.0.0.1:{shown.world.gateway.port}{path}")
    assert reply.status_code == 401, "as every unknown path without a key"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_without_a_valid_key_nothing_is_shown(shown: PageWorld, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(f"{shown.url}/state", headers=headers)
    assert reply.status_code == 401
    assert b"services" not in reply.content


async def test_a_gateway_without_keys_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with page_world(tmp_path, monkeypatch, auth_required=False) as one:
        await one.world.route("demo", key_sets=["team-b"])
        async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
            reply = await client.get(f"{one.url}/state")
        assert [service["name"] for service in reply.json()["services"]] == ["demo"]


async def test_a_key_sees_its_services_and_no_others(shown: PageWorld) -> None:
    write_key(shown.world.keys, "team-b", "key", "sk-team-b")
    for name, key_sets in (("mine", []), ("theirs", ["team-b"]), ("both", ["default", "team-b"])):
        await shown.world.route(name, key_sets=key_sets)
    only_told = picture("told-of", spec={"access": {"keySets": ["team-b"]}, "model": {"uri": "demo://"}})
    shown.ear.overview = overview(picture("mine"), picture("theirs"), only_told)
    await until(lambda: len(shown.world.gateway._keys.digests) == 2, "both keys are known")
    await shown.heard()
    mine, theirs = await shown.state(KEY), await shown.state("sk-team-b")
    assert set(services(mine)) == {"mine", "both"}
    assert set(services(theirs)) == {"theirs", "both", "told-of"}
    assert "theirs" not in json.dumps(mine)
    assert services(theirs)["told-of"]["seen"] is None


async def test_what_the_gateway_sees_stands_beside_what_the_operator_says(shown: PageWorld) -> None:
    one = await shown.world.add_replica()
    one.health |= {"running": 3, "waiting": 1, "kv_cache_usage": 0.42, "max_num_seqs": 8}
    await one.show_health(shown.world.health_port)
    await shown.world.route("demo")
    await shown.world.endpoints("demo", [one])
    shown.ear.overview = overview(picture("demo", desiredReplicas=2, replicas=1, readyReplicas=1))
    for _ in range(6):
        assert (await shown.world.ask(model="demo", messages=[])).status_code == 200
    one.step = asyncio.Semaphore(0)
    held = asyncio.create_task(shown.world.ask(model="demo", messages=[]))
    await until(lambda: one.running == 1, "one is under way")
    known = shown.world.gateway._fleet._replicas
    await until(lambda: any(found.vitals.status for found in known.values()), "its page is known")
    await shown.heard()
    row = services(await shown.state(KEY))["demo"]
    assert (row["namespace"], row["models"], row["told"]["desired"]) == (NAMESPACE, ["demo"], 2)
    seen = row["seen"]
    assert (seen["in_flight"], seen["waiting"], seen["requests_per_second"]) == (1, 0, 0.1)
    assert 0 < seen["first_byte_p50_ms"] <= seen["first_byte_p95_ms"] < 10_000
    (replica,) = seen["replicas"]
    assert (replica["state"], replica["running"], replica["kv_cache_percent"]) == ("Sound", 3, 42)
    one.step.release()
    await held


async def test_all_who_look_cost_one_look_a_second(shown: PageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await shown.world.route("demo")
    await shown.state(KEY)
    monkeypatch.setattr("ryzanstein_gateway.page_state.FRESH_SECONDS", 1000.0)
    monkeypatch.setattr("ryzanstein_gateway.overview.FRESH_SECONDS", 1000.0)
    page = shown.world.gateway._page_state
    page._made_at = float("-inf")
    fleet, looks = shown.world.gateway._fleet, 0
    groups = fleet.groups

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return groups()

    monkeypatch.setattr(fleet, "groups", counted)
    monkeypatch.setattr(shown.world.gateway._teller, "look", asyncio.Event().wait)  # it looks by the same means
    asked = shown.ear.asked
    async with asyncio.timeout(CLIENT_SECONDS):
        states = await asyncio.gather(*(shown.state(KEY) for _ in range(50)))
    assert looks == 1
    assert shown.ear.asked - asked <= 1
    assert len({json.dumps(state) for state in states}) == 1


async def test_an_operator_that_is_away_is_told_of_and_heard_when_it_is_back(
    shown: PageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ryzanstein_gateway.overview.FRESH_SECONDS", 0.05)
    monkeypatch.setattr("ryzanstein_gateway.overview.STALE_SECONDS", 1.0)
    monkeypatch.setattr("ryzanstein_gateway.page_state.FRESH_SECONDS", 0.0)
    await shown.world.route("demo")
    shown.ear.overview = overview(picture("demo"))

    async def told(wanted: bool) -> dict[str, Any]:
        async with asyncio.timeout(CLIENT_SECONDS):
            while True:
                state = await shown.state(KEY)
                if (services(state)["demo"]["told"] is not None) == wanted:
                    return state
                await asyncio.sleep(0.02)

    assert (await told(True))["operator_trouble"] == ""
    shown.ear.status = 503
    assert (await told(False))["operator_trouble"] == UNHEARD.trouble
    shown.ear.status = 200
    assert (await told(True))["operator"]["version"] == "0.1.0"


async def test_who_looks_again_after_a_while_waits_for_the_operator_as_the_first_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ryzanstein_gateway.overview.PATIENCE_SECONDS", CLIENT_SECONDS)
    async with listening() as ear:
        reader = Reader(Several(ear))
        assert (await reader.now()).trouble == ""
        reader._heard_at -= 3600.0
        reader._again_at -= 3600.0
        assert (await reader.now()).trouble == "", "what is old is not shown, nor that nobody answers"
        await reader.close()


async def test_without_an_operator_the_page_says_so() -> None:
    assert await Reader(Operators("", None)).now() is NO_OPERATOR


async def test_an_overview_of_another_version_is_passed_on_as_it_is() -> None:
    good = {"namespace": "a", "name": "b", "a_new_field": {"x": 1}}
    body = json.dumps({"services": [good, {"name": 5}, "nonsense"], "operator": {"version": "9"}, "new": 1}).encode()
    found = await read(body)
    (only,) = found.services.values()
    assert json.loads(bytes(only[1])) == good
    assert found.operator.version == "9"


def test_of_a_service_with_very_many_replicas_counts_are_whole() -> None:
    place = ("models", "demo-workers")
    many = [ReplicaState(Endpoint(f"10.0.0.{n}", f"pod-{n}"), place, 8001) for n in range(MOST_REPLICAS + 9)]
    seen = _seen(Route("demo", *place, port=8000), None, many, 100.0)
    assert (seen.listed, seen.sound, len(seen.replicas)) == (MOST_REPLICAS + 9, MOST_REPLICAS + 9, MOST_REPLICAS)


async def test_looking_leaves_no_line_in_the_log_but_a_refusal_does(
    shown: PageWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await shown.state(KEY)
    await shown.state("wrong", 401)
    await until(lambda: any("access" in one.__dict__ for one in caplog.records), "the refusal is logged")
    lines = [one.__dict__["access"] for one in caplog.records if "access" in one.__dict__]
    assert [line.status for line in lines] == [401]
    line = 'ryzanstein_gateway_requests_total{code="200",model="",protocol="http"}'
    assert await shown.world.metric(line) == 1
