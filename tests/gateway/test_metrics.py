"""What Prometheus is told: of each thing that an operator asks for a truthful number, and whose trace shows it."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from doorbell import KEY as OPERATOR_KEY
from doorbell import listening
from gateway_process import MODEL, gateway_process
from gateway_world import CLIENT_SECONDS, KEY, World, open_world, until
from journaled import Journaled
from otlp import collector
from ryzanstein_gateway.exemplars import MOST_SENT, Exemplars
from ryzanstein_gateway.gauges import View
from ryzanstein_gateway.metrics import DURATION, FIRST_BYTE, FIRST_TOKEN, Metrics
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.processes import Parent
from ryzanstein_gateway.recent import BOUNDS, Recent, counted, quantile
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.settings import Settings
from ryzanstein_gateway.wake import Waker
from ryzanstein_worker.contract import REALTIME, VERSION

OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-0{flag}"} for flag in (1, 0))
STREAM: dict[str, Any] = {"model": "demo", "messages": [], "stream": True, "max_tokens": 5}


async def journaled(world: World) -> Journaled:
    """A model with a replica that tells its tokens."""
    one = await world.add_replica()
    script = Journaled()
    one.answer = script.answer
    await world.route("demo")
    await world.endpoints("demo", [one])
    return script


async def families(port: int, **headers: str) -> dict[str, Metric]:
    """The page as OpenMetrics, read by a strict parser."""
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(f"http://127.0.0.1:{port}/metrics", headers=OPENMETRICS | headers)
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")
    return {one.name: one for one in text_string_to_metric_families(reply.text)}


def every_metric() -> list[Metric]:
    """Of all registries and of the view."""
    view = View(tuple, tuple, lambda: False, tuple, lambda: 1.0, lambda: 1.0)
    registries = [Metrics().registry, Parent(Settings(namespace="rz", watch_namespaces=("rz",))).registry, view]
    return [family for source in registries for family in source.collect()]


@pytest.mark.parametrize("metric", every_metric(), ids=lambda metric: metric.name)
def test_each_metric_is_documented_by_a_sentence_with_its_unit(metric: Metric) -> None:
    assert metric.name.startswith("ryzanstein_gateway_")
    assert re.fullmatch(r"[A-Z0-9].{15,}\.", metric.documentation), metric.documentation
    for unit in ("seconds", "bytes"):
        if unit in metric.name:
            assert unit in metric.documentation.lower(), metric.documentation


async def test_a_stream_is_counted_in_tokens_bytes_and_seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryzanstein_gateway.upstream.IDLE_SECONDS", 600.0)  # it must not grow old meanwhile
    await journaled(world)
    reply = await world.ask(**STREAM)
    assert reply.text.endswith("data: [DONE]\n\n")
    await until(lambda: bool(world.gateway._account._recent), "it is accounted for")
    for line, value in {
        'ryzanstein_gateway_generation_tokens_total{model="demo"}': 5,
        'ryzanstein_gateway_time_to_first_token_seconds_count{model="demo"}': 1,
        'ryzanstein_gateway_time_per_output_token_seconds_count{model="demo"}': 1,
        'ryzanstein_gateway_request_size_bytes_sum{model="demo"}': len(reply.request.content),
        "ryzanstein_gateway_upstream_connect_seconds_count": 1,
        'ryzanstein_gateway_streams_open{model="demo"}': 0,
        f'ryzanstein_gateway_info{{version="{VERSION}"}}': 1,
    }.items():
        assert await world.metric(line) == value, line
    assert (await world.ask(**STREAM)).status_code == 200
    assert await world.metric("ryzanstein_gateway_upstream_connect_seconds_count") == 1, "the same connection again"


async def test_what_is_open_is_counted_while_it_is(world: World) -> None:
    one = await world.add_replica()
    one.step = asyncio.Semaphore(0)
    await world.route("demo")
    await world.endpoints("demo", [one])
    asked = [asyncio.create_task(world.ask(**STREAM | {"stream": stream})) for stream in (True, False)]
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"ws://127.0.0.1:{world.gateway.port}{REALTIME}"
    async with connect(url, additional_headers=headers, proxy=None):
        await until(lambda: one.running == 2, "both are there")
        assert await world.metric('ryzanstein_gateway_requests_in_flight{model="demo"}') == 2
        assert await world.metric('ryzanstein_gateway_streams_open{model="demo"}') == 1
        assert await world.metric("ryzanstein_gateway_websockets_open") == 1
    for _ in range(4):
        one.step.release()
    assert [reply.status_code for reply in await asyncio.gather(*asked)] == [200, 200]
    for line in ("ryzanstein_gateway_websockets_open", 'ryzanstein_gateway_streams_open{model="demo"}'):
        await until_metric(world, line, 0)


async def until_metric(world: World, line: str, value: float) -> None:
    async with asyncio.timeout(CLIENT_SECONDS):
        while await world.metric(line) != value:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("status", "outcome"), [(200, "heard"), (503, "unheard")])
async def test_whether_the_operator_heard_a_wake_call_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, outcome: str
) -> None:
    monkeypatch.setattr("ryzanstein_gateway.operators.CALL_SECONDS", CLIENT_SECONDS)
    key = tmp_path / "demand-key"
    key.write_text(OPERATOR_KEY)
    async with listening() as ear:
        ear.status = status
        changes: dict[str, Any] = {"operator_url": f"http://127.0.0.1:{ear.port}", "operator_key_file": key}
        async with open_world(tmp_path, monkeypatch, **changes) as world:
            counts = {word: f'ryzanstein_gateway_wake_calls_total{{outcome="{word}"}}' for word in ("heard", "unheard")}
            async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
                page = (await client.get(f"http://127.0.0.1:{world.gateway.health_port}/metrics")).text
            assert all(f"{line} 0.0" in page for line in counts.values()), "there before the first"
            await world.route("demo", queueTimeoutSeconds=1)
            assert (await world.ask(model="demo", messages=[])).status_code == 503
            await until(lambda: ear.called > 0, "it was called")
            async with asyncio.timeout(CLIENT_SECONDS):
                while await world.metric(counts[outcome]) != ear.called:  # 1, or more where the second's wait took long
                    await asyncio.sleep(0.01)
            (other,) = counts.keys() - {outcome}
            assert await world.metric(counts[other]) == 0


async def test_nobody_is_called_and_nothing_counted_without_an_operator() -> None:
    heard: list[bool] = []
    waker = Waker(Operators("", None), "g/0", told=heard.append)
    waker.call(Route("demo", "models", "demo-workers", 8000), lambda: 0)
    await waker.close()
    assert heard == []


@pytest.mark.parametrize("accept", ["*/*", "text/plain;version=0.0.4", "application/openmetrics-text;version=x.y"])
async def test_who_asks_for_plain_text_or_for_nonsense_gets_plain_text(world: World, accept: str) -> None:
    async with httpx.AsyncClient(timeout=CLIENT_SECONDS) as client:
        reply = await client.get(f"http://127.0.0.1:{world.gateway.health_port}/metrics", headers={"accept": accept})
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# EOF" not in reply.text


async def test_a_sampled_request_is_the_exemplar_of_its_buckets_and_an_unsampled_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as kept:
        for name, value in kept.environment.items():
            monkeypatch.setenv(name, value)
        async with open_world(tmp_path, monkeypatch, traces=True) as world:
            await journaled(world)
            port = world.gateway.health_port
            for number, (headers, wanted) in enumerate(((UNSAMPLED, []), (SAMPLED, [TRACE])), 1):
                reply = await world.client.post("/v1/chat/completions", json=STREAM, headers=headers)
                assert reply.status_code == 200
                await until_metric(world, f'{DURATION}_count{{model="demo"}}', number)
                seen = await families(port)
                for name in (DURATION, FIRST_BYTE, FIRST_TOKEN):
                    found = [one.exemplar.labels["trace_id"] for one in seen[name].samples if one.exemplar]
                    assert found == wanted, name
    (sample,) = [one for one in seen[DURATION].samples if one.exemplar]
    assert sample.labels["model"] == "demo"
    assert 0 < sample.exemplar.value <= float(sample.labels["le"])


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_exemplars_of_all_processes_are_on_the_one_page(tmp_path: Path) -> None:
    with collector() as kept:
        environ = kept.environment | {"RYZANSTEIN_GATEWAY_PROCESSES": "2"}
        async with gateway_process(tmp_path, **environ) as gateway:
            await gateway.until_metric("ryzanstein_gateway_processes_ready", 2)
            sent = set()
            for number in range(1, 17):
                trace = f"{number:032x}"
                headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
                async with gateway.client() as client:
                    body = {"model": MODEL, "messages": []}
                    assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
                sent.add(trace)

            def processes() -> set[int]:
                return {one["process"] for one in gateway.records if one.get("trace_id") in sent}

            await until(lambda: processes() == {0, 1}, "each of them had some", 40)
            async with asyncio.timeout(40):
                while True:
                    found = await families(gateway.health_port)
                    shown = [one for one in found[DURATION].samples if one.exemplar]
                    if sum(one.value for one in found[DURATION].samples if one.name.endswith("_count")) == 16 and shown:
                        break
                    await asyncio.sleep(0.1)
    assert {one.exemplar.labels["trace_id"] for one in shown} <= sent
    assert found["ryzanstein_gateway_info"].samples[0].labels == {"version": VERSION}


def test_the_newest_of_a_bucket_is_shown_and_each_is_sent_once() -> None:
    member, parent = Exemplars(), Exemplars()
    for number, value in enumerate((0.3, 0.4, 0.04, 9999.0)):
        member.note(DURATION, "demo", value, f"trace-{number}")
    parent.add(member.take_new())
    assert member.take_new() == ()
    shown = {le: parent.find(DURATION, {"model": "demo", "le": le}) for le in ("0.5", "0.05", "+Inf", "1.0")}
    assert {le: one and one.labels["trace_id"] for le, one in shown.items()} == {
        "0.5": "trace-1", "0.05": "trace-2", "+Inf": "trace-3", "1.0": None,
    }  # fmt: skip
    assert parent.find(FIRST_BYTE, {"model": "demo", "le": "0.5"}) is None
    member.note(DURATION, "demo", 0.5, "at the bound")
    (late,) = member.take_new()
    assert late.le == "0.5", "a bucket holds its own bound"
    parent.add([late, msgspec.structs.replace(late, at=late.at - 1.0, trace_id="older")])
    found = parent.find(DURATION, {"model": "demo", "le": "0.5"})
    assert found is not None
    assert found.labels == {"trace_id": "at the bound"}


def test_a_report_holds_no_more_exemplars_than_fit() -> None:
    member = Exemplars()
    for number in range(MOST_SENT + 1):
        member.note(DURATION, f"model-{number}", 0.1, "t")
    assert [len(member.take_new()) for _ in range(3)] == [MOST_SENT, 1, 0]


def test_the_last_minute_forgets_what_is_older() -> None:
    recent = Recent()
    for second in range(100):
        recent.observe(float(second), 0.1 if second < 50 else 1.0)
    requests, packed = recent.summary(99.0)
    assert 58 <= requests == sum(counted(packed)) <= 66
    recent.observe(100.0, None)
    requests, packed = recent.summary(100.0)
    assert requests == sum(counted(packed)) + 1, "it had no first byte"
    assert recent.summary(1000.0) == (0, b"")


@pytest.mark.parametrize(("values", "share", "about"), [([0.1] * 99 + [8.0], 0.5, 0.1), ([0.1] * 9 + [8.0], 0.95, 8.0)])
def test_a_quantile_is_off_by_a_bucket_at_most(values: list[float], share: float, about: float) -> None:
    recent = Recent()
    for value in values:
        recent.observe(0.0, value)
    found = quantile(counted(recent.summary(0.0)[1]), share)
    assert found is not None
    assert found == pytest.approx(about, rel=0.25)


def test_quantiles_of_nothing_and_of_what_is_beyond_all_bounds() -> None:
    assert quantile((), 0.5) is None
    recent = Recent()
    recent.observe(0.0, 1e9)
    assert quantile(counted(recent.summary(0.0)[1]), 0.5) == BOUNDS[-1]
