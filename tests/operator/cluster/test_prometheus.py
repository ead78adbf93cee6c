"""The client of Prometheus: what it sends, and each way in which there may be no number, as one sentence."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from ryzanstein_operator.cluster import prometheus as module
from ryzanstein_operator.cluster.prometheus import Point, Prometheus, QueryError
from ryzanstein_operator.settings import Metrics
from stubprometheus import Fault, Stub, stub_prometheus, vector


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub is in this process, which a busy machine may let stand still for longer than two seconds."""
    monkeypatch.setattr(module, "QUERY_SECONDS", 60.0)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_prometheus() as found:
        yield found


@pytest.fixture
async def client(stub: Stub) -> AsyncIterator[Prometheus]:
    async with aclosing(_Closing(Prometheus(Metrics(stub.url)))) as closing:
        yield closing.client


class _Closing:
    def __init__(self, client: Prometheus) -> None:
        self.client = client

    async def aclose(self) -> None:
        await self.client.close()


def error_body(words: str) -> bytes:
    return b'{"status": "error", "errorType": "bad_data", "error": "%b"}' % words.encode()


async def test_a_query_is_posted_and_gives_its_series(stub: Stub, client: Prometheus) -> None:
    stub.value = 12.5
    assert await client.query('sum(x{a="b"})') == (Point({}, 12.5),)
    assert stub.queries == ['sum(x{a="b"})']
    assert "authorization" not in stub.headers[0]


async def test_a_scalar_is_a_number_too(stub: Stub, client: Prometheus) -> None:
    stub.fault = Fault(200, b'{"status":"success","data":{"resultType":"scalar","result":[1.0,"4"]}}')
    assert await client.query("4") == (Point({}, 4.0),)


async def test_what_is_not_a_number_is_given_as_it_is(stub: Stub, client: Prometheus) -> None:
    stub.value = "NaN"
    assert math.isnan((await client.query("x"))[0].value)


CASES = {
    "a wrong query": (Fault(400, error_body("parse error: unexpected end")), "refused", "parse error: unexpected end"),
    "no key": (Fault(401), "forbidden", "refuses the operator's credentials (status 401)"),
    "no right": (Fault(403, error_body("not you")), "forbidden", "status 403): not you"),
    "no such path": (Fault(404, b"<html>"), "refused", "status 404"),
    "an inner fault": (Fault(500, b"oops"), "failed", "status 500"),
    "overload": (Fault(503, error_body("too many")), "failed", "status 503): too many"),
    "another place": (Fault(302, location="http://127.0.0.1:1/"), "failed", "status 302"),
    "a page": (Fault(200, b"<html>"), "garbage", "not one of Prometheus' API"),
    "nothing": (Fault(200, b""), "garbage", "not one of Prometheus' API"),
    "a list": (Fault(200, b"[]"), "garbage", "not one of Prometheus' API"),
    "deep nesting": (Fault(200, b"[" * 100_000), "garbage", "not one of Prometheus' API"),
    "no result": (Fault(200, b'{"status":"success","data":{}}'), "garbage", "not one of Prometheus' API"),
    "a word for a number": (Fault(200, vector([({}, "much")])), "garbage", "not one of Prometheus' API"),
    "labels that are none": (
        Fault(200, b'{"status":"success","data":{"resultType":"vector","result":[{"metric":[],"value":[1,"1"]}]}}'),
        "garbage",
        "not one of Prometheus' API",
    ),
    "a matrix": (
        Fault(200, b'{"status":"success","data":{"resultType":"matrix","result":[]}}'),
        "kind",
        "a matrix and not a number",
    ),
    "too many series": (Fault(200, vector([({"n": str(n)}, 1) for n in range(17)])), "several", "gives 17 series"),
    "a huge body": (Fault(200, b" " * (module.MAX_BYTES + 1)), "large", "larger than 256 KiB"),
}


@pytest.mark.parametrize("title", CASES)
async def test_each_fault_is_one_sentence(title: str, stub: Stub, client: Prometheus) -> None:
    stub.fault, why, words = CASES[title]
    with pytest.raises(QueryError) as caught:
        await client.query("x")
    assert caught.value.why == why
    assert words in str(caught.value)
    stub.fault = None
    assert await client.query("x"), "it does not recover"


async def test_a_slow_one_is_given_up_and_left_alone_for_a_while(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    client = Prometheus(Metrics(stub.url), lambda: now[0])
    stub.fault = Fault(silent=True)
    monkeypatch.setattr(module, "QUERY_SECONDS", 0.2)
    with pytest.raises(QueryError, match="has not answered within"):
        await client.query("first")
    monkeypatch.setattr(module, "QUERY_SECONDS", 60.0)
    stub.fault = None
    for seconds in (0.0, module.REST_SECONDS - 0.1):
        now[0] = 1000.0 + seconds
        with pytest.raises(QueryError, match="has not answered within"):
            await client.query("in vain")
    now[0] = 1000.0 + module.REST_SECONDS
    assert await client.query("again")
    assert "in vain" not in stub.queries, "others waited, too"
    await client.close()


async def test_nobody_there_is_said_at_once() -> None:
    client = Prometheus(Metrics("http://127.0.0.1:1"))
    with pytest.raises(QueryError, match="cannot be reached") as caught:
        await client.query("x")
    assert caught.value.why == "unreachable"
    await client.close()


async def test_the_token_is_read_anew_for_each_query_and_never_shown(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "token"
    client = Prometheus(Metrics(stub.url, token_file=file))
    with pytest.raises(QueryError, match="credentials cannot be read"):
        await client.query("x")
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        await client.query("x")
    assert [seen["authorization"] for seen in stub.headers] == ["Bearer first", "Bearer second"]
    stub.fault = Fault(403)
    with pytest.raises(QueryError) as caught:
        await client.query("x")
    assert "second" not in str(caught.value)
    await client.close()
