"""A visit that does something is a trace that a real collector gets; one that does nothing is none. A collector that is
away costs nothing."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fakeapi import FakeApi, Manifest, refuse, wait_until
from held_up import Held
from operator_life import until, until_quiet
from operator_process import OperatorProcess
from otlp import Collector, Span, collector
from ports import free_port
from ryzanstein_operator.cluster import lease as lease_module
from ryzanstein_operator.cluster.client import Call, Cluster
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.desired.names import CHILD_KINDS, child_name
from ryzanstein_operator.doorbell import Heard, Word
from ryzanstein_operator.handlers import loop as loop_module
from ryzanstein_operator.handlers.run import Operator
from ryzanstein_operator.settings import Settings
from ryzanstein_operator.trace import MOST_LINKS, About, Tracer, Wakers, current, is_enabled
from ryzanstein_operator.tracing import Tracing

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
CLIENT, ERROR = 3, 2
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def a_service(name: str = "chat", **spec: object) -> Manifest:
    metadata = {"namespace": "team", "name": name}
    spec = {"model": {"uri": "demo://"}, "replicas": 1} | spec
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": spec}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that this process' environment names."""
    with collector() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@contextlib.asynccontextmanager
async def traced(cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(loop_module, "LEAD_POLL_SECONDS", 0.02)
    operator = Operator(cluster, settings, Tracing("operator-0", {}))
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        operator.stop()
        async with asyncio.timeout(30):
            await task


def roots(kept: Collector, name: str = "reconcile service") -> list[Span]:
    return [span for span in list(kept.spans) if span.name == name]


def below(kept: Collector, above: Span) -> list[Span]:
    found = [span for span in list(kept.spans) if span.parent_id == above.span_id]
    return sorted(found, key=lambda span: span.begin)


async def test_a_visit_that_writes_is_one_trace_with_its_parts_and_its_calls(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, kept: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(cluster, settings, monkeypatch) as operator:
        fake_api.put(a_service(parallelism={"tensor": 2, "nodes": 2}, replicas=2))
        await until(lambda: fake_api.all("Secret") and roots(kept))
        await until(lambda: [span for span in list(kept.spans) if span.name == "create Secret"])
        page = operator.probes.metrics(OPENMETRICS)[0].decode()
    root = min(roots(kept), key=lambda span: span.begin)
    assert (root.service, root.parent_id, root.links) == ("ryzanstein-operator", "", [])
    assert (root.attributes["k8s.namespace.name"], root.attributes["ryzanstein.inference_service.name"]) == (
        "team",
        "chat",
    )
    assert root.attributes["ryzanstein.result"] in ("done", "retry")
    assert 0 <= root.attributes["ryzanstein.queue.wait_seconds"] < 30
    assert root.attributes["ryzanstein.actions"] > 3
    parts = below(kept, root)
    assert [span.name for span in parts] == ["observe", "decide", "apply"]
    assert {span.trace_id for span in parts} == {root.trace_id}
    looked, _, applied = (below(kept, part) for part in parts)
    assert {span.attributes["http.request.method"] for span in looked} == {"GET"}
    assert all(span.kind == CLIENT and span.begin <= span.end for span in [*looked, *applied])
    (made,) = [span for span in applied if span.name == "create Secret"]
    assert made.attributes["http.response.status_code"] == 200
    assert made.attributes["ryzanstein.kubernetes.verb"] == "create"
    (status,) = [span for span in applied if span.attributes.get("ryzanstein.kubernetes.subresource") == "status"]
    assert (status.name, status.attributes["ryzanstein.kubernetes.name"]) == ("patch InferenceService", "chat")
    (secret,) = fake_api.all("Secret")
    for value in secret["data"].values():
        assert value.encode() not in kept.raw
    assert b"demo://" not in kept.raw, "no manifest"
    families = {family.name: family for family in text_string_to_metric_families(page)}
    buckets = families["ryzanstein_operator_reconcile_duration_seconds"].samples
    shown = {sample.exemplar.labels["trace_id"] for sample in buckets if sample.exemplar}
    assert shown <= {span.trace_id for span in kept.spans}
    assert shown


async def test_visits_that_find_nothing_to_do_are_not_told_of_and_one_that_fails_is(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, kept: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(cluster, settings, monkeypatch) as operator:
        service = fake_api.put(a_service())
        await until(lambda: all(fake_api.get(kind, "team", child_name(kind, "chat")) for _, kind in CHILD_KINDS))
        await until_quiet(fake_api)
        quiet, visits = time.time_ns(), done(operator)
        live = fake_api.get(SERVICES.kind, "team", "chat") or service
        fake_api.put({**live, "metadata": {**live["metadata"], "annotations": {"note": "no news"}}})
        await operator._loop.wake(loop_module.Key("team", "chat"))
        await until(lambda: done(operator) > visits)
        await until_quiet(fake_api, 0.2)
        news = time.time_ns()
        fake_api.faults.append(refuse("PATCH", "/deployments", 403, "deployments is forbidden: hunter2"))
        live = fake_api.get(SERVICES.kind, "team", "chat") or service
        fake_api.put({**live, "spec": {**live["spec"], "replicas": 2}})
        await until(lambda: [root for root in roots(kept) if root.attributes["ryzanstein.result"] == "retry"])
        (refused,) = [span for span in list(kept.spans) if span.attributes.get("error.type") == "403"][:1]
    # Spans are sent in the order in which they end, so those of a visit before the refused one have come before it.
    assert not [root.name for root in roots(kept) if quiet <= root.begin < news], "a visit without news is no news"
    assert (refused.name, refused.status) == ("patch Deployment", ERROR)
    assert refused.attributes["k8s.deployment.name"] == "chat"
    assert b"hunter2" not in kept.raw


def done(operator: Operator) -> float:
    found = operator._metrics.registry.get_sample_value("ryzanstein_operator_reconcile_total", {"result": "done"})
    return found or 0.0


async def test_a_visit_that_a_traced_request_has_woken_is_linked_to_it(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, kept: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(cluster, settings, monkeypatch) as operator:
        fake_api.put(a_service(replicas=0))
        await until(lambda: roots(kept))
        word = Word("team", "chat", 3, "gateway-0", TRACEPARENT)
        await until(lambda: not operator.probes.ready().reason)
        while await asyncio.to_thread(operator.hear, word) is not Heard.LEADING:
            await asyncio.sleep(0.05)
        await until(lambda: [root for root in roots(kept) if root.links])
    linked = next(root for root in roots(kept) if root.links)
    assert linked.links == [PARENT]
    assert linked.attributes["ryzanstein.demand.waiting"] == 3
    assert linked.trace_id != TRACE


def test_what_wakes_a_visit_is_kept_once_and_bounded() -> None:
    wakers = Wakers()
    for number in range(50):
        wakers.by("a", f"00-{number:032x}-{PARENT}-01")
        wakers.by("a", TRACEPARENT)
    wakers.by("b", "")
    assert len(set(wakers.of("a"))) == MOST_LINKS
    assert (wakers.of("a"), wakers.of("b")) == ((), ())


def test_without_traces_a_visit_tells_nobody_and_no_library_is_loaded() -> None:
    with Tracer().visit(About("team", "chat", 0.0)) as visit:
        assert current() is visit
        with visit.phase("observe"):
            visit.called(Call("GET", "/api", 200, 1, 0.0))
        assert (visit.id, visit.ended("failed")) == ("", False)
    assert current() is not visit
    look = "import sys, ryzanstein_operator.handlers.run; print([m for m in sys.modules if m.startswith('opentelem')])"
    assert subprocess.check_output([sys.executable, "-c", look], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(environment: dict[str, str], wanted: bool) -> None:
    assert is_enabled(environment) is wanted


async def test_what_is_not_sampled_is_neither_sent_nor_named_in_the_log(
    kept: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    tracer = Tracing("operator-0", {})
    visit = tracer.visit(About("team", "chat", 0.0))
    assert (visit.id, visit.ended("failed")) == ("", False)
    await tracer.close()
    assert kept.spans == []


@pytest.mark.slow
def test_an_operator_whose_collector_is_away_works_and_ends_as_fast_as_ever_and_its_log_has_the_ids(
    fake_api: FakeApi, tmp_path: Path
) -> None:
    environment = {
        "KUBECONFIG": str(fake_api.kubeconfig),
        "RYZANSTEIN_NAMESPACE": "release",
        "RYZANSTEIN_WATCH_NAMESPACES": "team",
        "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    process = OperatorProcess(environment, tmp_path / "log")
    try:
        wait_until(lambda: process.leads, 60, "the lead")
        held, began = Held([os.getpid(), process.process.pid]), time.monotonic()
        fake_api.put(a_service())
        kinds = [kind for _, kind in CHILD_KINDS]
        wait_until(lambda: all(fake_api.get(kind, "team", child_name(kind, "chat")) for kind in kinds), 40, "children")
        took, lost = time.monotonic() - began, held.seconds()
        assert took < 5 + lost, f"{took:.1f} s, of which this machine took {lost:.1f}"
        status, seconds = process.end()
    finally:
        process.kill()
    assert (status, seconds < 8) == (0, True), f"{seconds} s: the exporter's own end would take ten"
    plans = [record for record in process.records() if "actions" in record and record["key"] == "team/chat"]
    assert plans
    assert all(len(record["trace_id"]) == 32 for record in plans)
