"""What is measured has its series, in the form that a scraper asks for, and none of what is gone."""

import re
import threading
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from operator_builders import service
from ryzanstein_operator.cluster.calls import Subject, subject_of
from ryzanstein_operator.cluster.client import Call
from ryzanstein_operator.gauges import GaugeTable
from ryzanstein_operator.handlers.figures import size
from ryzanstein_operator.telemetry import Metrics, Size
from ryzanstein_worker.contract import VERSION

PREFIX = "ryzanstein_operator_"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


ORDER = ("namespace", "name", "direction", "verb", "code", "why", "version", "le")


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """By name without the prefix, and the values of the labels in this order."""
    page = metrics.render()[0].decode()
    return {
        (sample.name.removeprefix(PREFIX), *(sample.labels[one] for one in ORDER if one in sample.labels)): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_each_service_has_series_as_long_as_it_is_there() -> None:
    metrics = Metrics()
    metrics.sizes({("team", "a"): Size(3, 1, 5, active=True), ("team", "b"): Size(1, 1)})
    metrics.decided("team", "a", 1, 3, active=True)
    first = samples(metrics)
    assert (first["desired_replicas", "team", "a"], first["ready_replicas", "team", "a"]) == (3, 1)
    assert (first["max_replicas", "team", "a"], first["scaling_active", "team", "a"]) == (5, 1)
    assert ("max_replicas", "team", "b") not in first
    assert ("scaling_active", "team", "b") not in first
    assert first["scaling_decisions_total", "team", "a", "up"] == 1
    assert first["scaling_decisions_total", "team", "a", "down"] == 0, "there before it is first counted"
    metrics.sizes({("team", "b"): Size(1, 1)})
    assert not [key for key in samples(metrics) if "a" in key[1:]]


@pytest.mark.parametrize(
    ("before", "after", "active", "direction"),
    [(1, 2, True, "up"), (2, 0, True, "down"), (2, 2, True, "same"), (2, 2, False, "held"), (0, 1, False, "up")],
)
def test_a_decision_has_a_direction(before: int, after: int, active: bool, direction: str) -> None:
    metrics = Metrics()
    metrics.decided("team", "a", before, after, active=active)
    found = {key[-1]: value for key, value in samples(metrics).items() if key[0] == "scaling_decisions_total"}
    assert found == {"up": 0, "down": 0, "same": 0, "held": 0} | {direction: 1}


def test_the_age_of_the_oldest_key_grows_though_nobody_looks() -> None:
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    metrics.queued(2, 98.0)
    now[0] = 160.0
    assert (samples(metrics)["queue_oldest_seconds",], samples(metrics)["queue_depth",]) == (62.0, 2)
    metrics.queued(0, None)
    assert samples(metrics)["queue_oldest_seconds",] == 0


def test_taking_and_losing_the_lead_are_counted_and_staying_is_not() -> None:
    metrics = Metrics()
    for held in (False, True, True, True, False):
        metrics.leading(held)
    assert (samples(metrics)["leader",], samples(metrics)["leader_transitions_total",]) == (0, 2)


def test_calls_and_queries_are_timed_by_what_came_of_them() -> None:
    metrics = Metrics()
    metrics.requested("get", 200, 0.02, again=False)
    metrics.requested("patch", 409, 0.02, again=False)
    metrics.requested("patch", 0, 10.0, again=True)
    metrics.queried(0.1)
    metrics.queried(5.0, "timeout")
    found = samples(metrics)
    assert found["api_request_duration_seconds_count", "get", "2xx"] == 1
    assert found["api_request_duration_seconds_count", "patch", "4xx"] == 1
    assert found["api_request_duration_seconds_sum", "patch", "none"] == 10
    assert found["api_request_retries_total", "patch"] == 1
    assert found["prometheus_query_duration_seconds_count",] == 2
    assert found["prometheus_query_failures_total", "timeout"] == 1
    assert found["info", VERSION] == 1


def test_a_trace_is_the_exemplar_of_its_visit_where_openmetrics_is_asked_for() -> None:
    metrics, trace_id = Metrics(), "5b8aa5a2d2c872e8321cf37308d69df2"
    metrics.visited(0.03, "done", trace_id)
    metrics.visited(0.3, "done")
    page, content_type = metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in read_openmetrics(page.decode())}
    buckets = families[f"{PREFIX}reconcile_duration_seconds"].samples
    exemplars = [(one.labels["le"], one.exemplar.labels) for one in buckets if one.exemplar]
    assert exemplars == [("0.05", {"trace_id": trace_id})]
    plain, content_type = metrics.render("text/plain;version=0.0.4")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert trace_id.encode() not in plain


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x.y", "text/plain;version=..", "\u00ff;;,"])
def test_a_header_that_is_nonsense_asks_for_nothing(accept: str) -> None:
    page, content_type = Metrics().render(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert page.startswith(b"# HELP ")


def test_every_metric_says_in_a_sentence_what_it_is_and_names_its_unit() -> None:
    page = Metrics().render()[0].decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", page, re.MULTILINE))
    assert len(helps) >= 20
    for name, words in helps.items():
        if name.endswith("_created"):
            continue
        assert name.startswith(PREFIX)
        assert words.endswith("."), name
        assert ("seconds" in words) >= name.endswith("_seconds"), name


def test_a_scrape_never_sees_half_a_table() -> None:
    metrics = Metrics()
    table = GaugeTable("x", "X.", ["name"], metrics.registry)
    looks: list[dict[tuple[str, ...], float]] = [{(str(name),): 1.0 for name in range(size)} for size in (50, 80)]
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            for look in looks:
                table.replace(look)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = {len(next(iter(table.collect())).samples) for _ in range(300)}
    finally:
        done.set()
        thread.join(5)
    assert seen <= {0, 50, 80}


AUTOSCALING = {"maxReplicas": 4, "targets": []}


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ({"replicas": 2}, {}, Size(2, 0)),
        ({"replicas": 2}, {"desiredReplicas": 3, "readyReplicas": 1}, Size(3, 1)),
        ({"autoscaling": AUTOSCALING}, {"desiredReplicas": 0}, Size(0, 0, 4)),
        ({"autoscaling": AUTOSCALING}, {"conditions": [("MetricsRead", "True")]}, Size(1, 0, 4, active=True)),
        ({"autoscaling": AUTOSCALING}, {"conditions": [("AtZero", "False")]}, Size(1, 0, 4, active=True)),
        ({"autoscaling": AUTOSCALING}, {"conditions": [("MetricsUnavailable", "False")]}, Size(1, 0, 4, active=False)),
        ({"replicas": "many", "autoscaling": 7}, {"readyReplicas": None}, Size(1, 0)),
    ],
)
def test_a_services_size_is_what_its_spec_and_status_say(spec: Any, status: Any, expected: Size) -> None:
    told = [
        {"type": "ScalingActive", "status": status_word, "reason": reason}
        for reason, status_word in status.get("conditions", ())
    ]
    live = {**service(), "spec": spec, "status": status | {"conditions": told}}
    assert size(live) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/apis/ryzanstein.dev/v1alpha1", Subject("get", "", "", "", "")),
        ("GET", "/api/v1/nodes", Subject("list", "Node", "", "", "")),
        ("GET", "/api/v1/namespaces/team/pods", Subject("list", "Pod", "team", "", "")),
        (
            "PATCH",
            "/apis/ryzanstein.dev/v1alpha1/namespaces/team/inferenceservices/chat/status",
            Subject("patch", "InferenceService", "team", "chat", "status"),
        ),
        (
            "POST",
            "/apis/events.k8s.io/v1/namespaces/team/events",
            Subject("create", "Event", "team", "", ""),
        ),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/release/leases/x",
            Subject("update", "Lease", "release", "x", ""),
        ),
    ],
)
def test_a_call_says_by_its_path_what_it_was_about(method: str, path: str, expected: Subject) -> None:
    assert subject_of(Call(method, path, 200, 1, 0.0)) == expected
