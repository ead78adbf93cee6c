"""Who gets in: the key check over the whole route table, and keys that change while the gateway runs."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway_world import KEY, World, open_world, until, write_key
from ryzanstein_gateway.app import RULES
from ryzanstein_gateway.auth import KeyRing, cache_salt, read_key_sets
from ryzanstein_worker.contract import CHAT_COMPLETIONS, HEADER_CACHE_SALT, HEALTH_LIVE, METRICS

ASK: dict[str, Any] = {"model": "demo", "messages": []}

WRONG = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer wrong"},
    {"authorization": f"Basic {KEY}"},
    {"authorization": KEY},
    {"authorization": f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}"},
    {"authorization": f"Bearer {KEY}x"},
    {"authorization": "Bearer " + "k" * 2000},
    {"authorization": "Bearer \xff"},
    {"x-api-key": KEY},
]


async def test_nothing_on_the_api_port_answers_without_a_valid_key(world: World) -> None:
    await world.route("demo")
    del world.client.headers["authorization"]
    paths = {(rule.method, rule.path + ("demo" if rule.prefix else "")) for rule in RULES}
    paths |= {("GET", "/"), ("GET", "/docs"), ("OPTIONS", CHAT_COMPLETIONS), ("GET", METRICS), ("GET", HEALTH_LIVE)}
    for method, path in sorted(paths):
        for headers in WRONG:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            reply = await world.client.request(method, path, headers=raw)
            assert reply.status_code == 401, (method, path, headers)
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert reply.headers["www-authenticate"] == "Bearer"
    assert await world.metric("ryzanstein_gateway_auth_failures_total") == len(paths) * len(WRONG)


async def test_two_authorization_headers_are_refused(world: World) -> None:
    pair = [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")]
    del world.client.headers["authorization"]
    assert (await world.client.get("/v1/models", headers=pair)).status_code == 401


async def test_route_table_holds_what_it_should_and_no_more() -> None:
    assert {(rule.method, rule.path, rule.prefix) for rule in RULES} == {
        ("POST", "/v1/completions", False),
        ("POST", "/v1/chat/completions", False),
        ("GET", "/v1/realtime/completions", False),
        ("GET", "/v1/models", False),
        ("GET", "/v1/models/", True),
        ("GET", "/ui/state", False),
    }


async def test_other_paths_and_methods_are_404_and_405_with_a_valid_key(world: World) -> None:
    table = [
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/health/ready", 404),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/completions/", 404),
        ("POST", "/V1/completions", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models/demo", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("GET", "/v1/../v1/metrics", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/realtime/completions", 426),
    ]
    for method, path, status in table:
        reply = await world.client.request(method, path)
        assert reply.status_code == status, (method, path)
        assert reply.json()["error"]["type"] == "invalid_request_error"
        assert ("allow" in reply.headers) is (status == 405)


async def test_model_of_a_foreign_key_set_looks_exactly_as_unknown(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    await world.route("org/secret", key_sets=["team-b"])
    await world.endpoints("demo", [one])
    await world.endpoints("org/secret", [one])
    write_key(world.keys, "team-b", "alice", "sk-team-b")
    await until(lambda: len(world.gateway._keys.digests) == 2, "the second key is known")

    async def look(key: str, model: str) -> list[tuple[int, bytes]]:
        headers = {"authorization": f"Bearer {key}"}
        replies = [
            await world.client.post("/v1/completions", json=ASK | {"model": model}, headers=headers),
            await world.client.get(f"/v1/models/{model}", headers=headers),
        ]
        return [(reply.status_code, reply.content) for reply in replies]

    assert await look(KEY, "org/secret") == await look(KEY, "org/never-was")
    assert await look("sk-team-b", "demo") == await look("sk-team-b", "org/never-was")
    assert {status for status, _ in await look(KEY, "org/secret")} == {404}
    assert {status for status, _ in await look("sk-team-b", "org/secret")} == {200}
    for key, seen in ((KEY, ["demo"]), ("sk-team-b", ["org/secret"])):
        listed = (await world.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).json()
        assert [model["id"] for model in listed["data"]] == seen


async def test_models_carry_openais_fields_and_the_length(world: World) -> None:
    await world.route("demo", max_model_len=4096)
    fields = {"id": "demo", "object": "model", "created": 0, "owned_by": "ryzanstein", "max_model_len": 4096}
    assert (await world.client.get("/v1/models")).json() == {"object": "list", "data": [fields]}
    assert (await world.client.get("/v1/models/demo")).json() == fields


async def test_rotated_key_is_taken_without_a_restart_and_the_old_one_ends(world: World) -> None:
    write_key(world.keys, "default", "key", "sk-new")
    (world.keys / "default" / "second").write_text("not a hash")
    fresh = {"authorization": "Bearer sk-new"}
    new = hashlib.sha256(b"sk-new").hexdigest()
    await until(lambda: set(world.gateway._keys.digests) == {new}, "the new key alone is in force")
    assert (await world.client.get("/v1/models", headers=fresh)).status_code == 200
    assert (await world.client.get("/v1/models")).status_code == 401


async def test_tenants_share_no_cache_salt(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    write_key(world.keys, "default", "second", "sk-second")
    await until(lambda: len(world.gateway._keys.digests) == 2, "the second key is known")
    for key in (KEY, "sk-second", KEY):
        await world.client.post(CHAT_COMPLETIONS, json=ASK, headers={"authorization": f"Bearer {key}"})
    salts = [{k.lower(): v for k, v in headers.items()}[HEADER_CACHE_SALT] for headers, _ in one.received]
    assert salts[0] == salts[2] != salts[1]
    assert salts[0] == cache_salt(hashlib.sha256(KEY.encode()).hexdigest())


async def test_auth_none_opens_every_model_and_still_strips_the_salt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, auth_required=False) as world:
        one = await world.add_replica()
        await world.route("demo", key_sets=["team-b"])
        await world.endpoints("demo", [one])
        del world.client.headers["authorization"]
        reply = await world.client.post(CHAT_COMPLETIONS, json=ASK, headers={HEADER_CACHE_SALT: "mine"})
        assert reply.status_code == 200
        assert HEADER_CACHE_SALT not in {name.lower() for name in one.received[0][0]}


def test_kubelets_layout_is_read_and_its_atomic_swap_is_seen(tmp_path: Path) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("old", "new")}
    volume = tmp_path / "team-a"
    for name, digest in digests.items():
        (volume / f"..{name}").mkdir(parents=True)
        (volume / f"..{name}" / "entry").write_text(digest.upper() + "\n")
    (volume / "..data").symlink_to("..old")
    (volume / "entry").symlink_to("..data/entry")
    ring = KeyRing(tmp_path)
    ring.refresh()
    assert ring.digests == {digests["old"]: frozenset({"team-a"})}
    (volume / "..swap").symlink_to("..new")
    (volume / "..swap").rename(volume / "..data")
    ring.refresh()
    assert ring.digests == {digests["new"]: frozenset({"team-a"})}


def test_one_projected_volume_of_all_sets_is_read_too(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    for name in ("a", "b"):
        (tmp_path / "..2026" / name).mkdir(parents=True)
        (tmp_path / "..2026" / name / "entry").write_text(digest)
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to("..2026")
    assert read_key_sets(tmp_path) == {digest: frozenset({"a", "b"})}


def test_missing_folder_and_dangling_entries_let_nobody_in(tmp_path: Path) -> None:
    assert read_key_sets(tmp_path / "none") == {}
    ring = KeyRing(tmp_path)
    write_key(tmp_path, "default", "key", "k")
    ring.refresh()
    assert len(ring.digests) == 1
    (tmp_path / "default" / "broken").symlink_to("nowhere")
    ring.refresh()  # in the middle of a swap: what was read before stays
    assert len(ring.digests) == 1
    (tmp_path / "default" / "broken").unlink()
    (tmp_path / "default" / "key").unlink()
    ring.refresh()
    assert ring.digests == {}
