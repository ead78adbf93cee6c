"""What is refused at the edge: poison bodies, sizes, slow clients. Never a 5xx for what a client did."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_world import KEY, World, open_world
from ryzanstein_gateway.errors import Refused
from ryzanstein_gateway.limits import members_of, model_of

DEEP = 100_000

POISON: list[tuple[bytes, int, str]] = [
    (b"", 400, "invalid_json"),
    (b"\x00", 400, "invalid_json"),
    (b"null", 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b'"demo"', 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b'{"model":"demo"', 400, "invalid_json"),
    (b'{"model":"demo"} {}', 400, "invalid_json"),
    (b"{'model':'demo'}", 400, "invalid_json"),
    (b'{"model":"demo","temperature":NaN}', 400, "invalid_json"),
    (b'{"model":"demo","max_tokens":01}', 400, "invalid_json"),
    (b'\xef\xbb\xbf{"model":"demo"}', 400, "invalid_json"),
    ('{"model":"demo"}'.encode("utf-16"), 400, "invalid_json"),
    (b'{"\xff":1,"model":"demo"}', 400, "invalid_json"),
    (b'{"model":"demo","model":"demo"}', 400, "invalid_json"),
    (b'{"model":"demo","mod\\u0065l":"other"}', 400, "invalid_json"),
    (b'{"model":"demo","n":1,"n":2}', 400, "invalid_json"),
    (b'{"model":"demo","a":' + b"[" * DEEP + b"]" * DEEP + b"}", 400, "invalid_json"),
    (b'{"model":"demo","a":' + b'{"b":' * DEEP + b"1" + b"}" * DEEP + b"}", 400, "invalid_json"),
    (b"{}", 400, "missing_model"),
    (b'{"model":null}', 400, "missing_model"),
    (b'{"model":7}', 400, "missing_model"),
    (b'{"model":["demo"]}', 400, "missing_model"),
    (b'{"model":""}', 400, "missing_model"),
    (b'{"model":"\xff"}', 400, "missing_model"),
    (b'{"model":"' + b"x" * 257 + b'"}', 400, "missing_model"),
    (b'{"model":"demo\\u0000"}', 404, "model_not_found"),
    (b'{"model":"../demo"}', 404, "model_not_found"),
    (b'{"model":"DEMO"}', 404, "model_not_found"),
    (b'{"model":"http://169.254.169.254/"}', 404, "model_not_found"),
]


async def test_poison_bodies_get_a_4xx_in_openais_shape_and_reach_no_replica(world: World) -> None:
    one = await world.add_replica()
    await world.route("demo")
    await world.endpoints("demo", [one])
    for body, status, code in POISON:
        reply = await world.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), body[:60]
        assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert not one.received
    metrics = await world.metric('ryzanstein_gateway_requests_total{code="400",model="",protocol="http"}')
    assert metrics == sum(status == 400 for _, status, _ in POISON)


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_other_content_types_are_refused(world: World, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await world.client.post("/v1/completions", content=b'{"model":"demo"}', headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_content_type")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(body=st.dictionaries(st.text(), JSON, max_size=6), model=st.text(min_size=1, max_size=256))
@settings(deadline=None, max_examples=50)
def test_model_is_found_in_any_json_object_as_json_reads_it(body: dict[str, Any], model: str) -> None:
    for escaped in (True, False):
        text = json.dumps(body | {"model": model}, ensure_ascii=escaped)
        try:
            data = text.encode()
        except UnicodeEncodeError:  # a lone surrogate is no UTF-8
            continue
        assert model_of(members_of(data)) == model


@given(data=st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_refused_or_name_a_model(data: bytes) -> None:
    try:
        model = model_of(members_of(data))
    except Refused as refused:
        status = refused.refusal.status
    else:
        status = 400 if model else 0
    assert status == 400


async def raw(world: World, *pieces: bytes, limit: float = 30.0) -> bytes:
    """Send bytes as they are, half-closing nothing, and return all that comes until the gateway hangs up."""
    async with asyncio.timeout(limit):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
        try:
            for piece in pieces:
                writer.write(piece)
            return await reader.read()
        finally:
            writer.close()


HEAD = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
JSON_TYPE = b"content-type: application/json\r\n"


async def test_sizes_and_pace_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight: dict[str, Any] = {
        "max_body_bytes": 1000,
        "max_head_bytes": 4096,
        "head_timeout_seconds": 1.0,  # long enough for what comes at once on a machine that stands still
        "body_timeout_seconds": 1.0,
    }
    async with open_world(tmp_path, monkeypatch, **tight) as world:
        chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        table = [
            ("announced", 413, HEAD + JSON_TYPE + b"content-length: 1001\r\n\r\n"),
            ("chunked", 413, HEAD + JSON_TYPE + b"transfer-encoding: chunked\r\n\r\n" + chunk * 2),
            ("slow body", 408, HEAD + JSON_TYPE + b"content-length: 10\r\n\r\n{"),
            ("slow head", 408, HEAD),
            ("long header", 431, HEAD + b"x: " + b"y" * 5000),
            ("long head", 431, HEAD + b"x: " + b"y" * 5000 + b"\r\n\r\n"),
            ("many headers", 431, HEAD + b"x: y\r\n" * 2000),
            ("long URL", 431, b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\n\r\n"),
            ("no HTTP", 400, b"\x16\x03\x01\x02\x00\x01\x00"),
            ("both lengths", 400, HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("two lengths", 400, HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n"),
            ("negative", 400, HEAD + b"content-length: -5\r\n\r\n"),
            ("no key, large", 401, b"POST /v1/completions HTTP/1.0\r\ncontent-length: 9000\r\n\r\n"),
        ]
        for name, status, sent in table:
            got = await raw(world, sent)
            assert got.startswith(f"HTTP/1.1 {status} ".encode()), (name, got[:80])
            assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["message"], name
        assert await raw(world) == b"", "a connection that asks nothing is closed in silence"
        assert (await world.client.get("/v1/models")).status_code == 200


async def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path, monkeypatch, max_connections=2) as world:
        held = [await asyncio.open_connection("127.0.0.1", world.gateway.port) for _ in range(2)]
        got = await raw(world)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"too_many_connections" in got
        assert b"\r\nretry-after: 2\r\n" in got
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


async def test_a_request_that_takes_too_long_is_504_or_ends_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, monkeypatch, request_timeout_seconds=1.5) as world:
        one = await world.add_replica()
        await world.route("demo")
        await world.endpoints("demo", [one])
        one.step = asyncio.Semaphore(0)
        reply = await world.ask(model="demo")
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        async with asyncio.timeout(20):
            await one.left.wait()
        one.step = asyncio.Semaphore(1)
        body = b'{"model":"demo","stream":true}'
        got = await raw(world, HEAD + JSON_TYPE + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert b"HTTP/1.1 200 " in got
        assert b'"code":"timeout"' in got
        assert b"[DONE]" not in got
        assert not got.endswith(b"0\r\n\r\n"), "the reply must not look whole"
