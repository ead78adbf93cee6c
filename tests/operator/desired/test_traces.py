"""Workers trace where the operator was told of a collector, and know nothing of it otherwise."""

from dataclasses import replace
from typing import Any

import pytest

from operator_builders import SETTINGS, desired, service
from ryzanstein_operator.desired.traces import trace_egress
from ryzanstein_operator.settings import Tracing

HERE = Tracing("http://collector.obs:4318", namespace_labels={"team": "obs"})


def environment(tracing: Tracing | None, container: str = "containers", **spec: Any) -> dict[str, str]:
    """The environment of the one container of this kind."""
    settings = replace(SETTINGS, tracing=tracing)
    pod = desired(service(**spec), settings)["Deployment"]["spec"]["template"]["spec"]
    (found,) = pod[container]
    return {one["name"]: one.get("value", "") for one in found["env"]}


def test_without_a_collector_nothing_of_the_workers_changes() -> None:
    assert [name for name in environment(None) if name.startswith("OTEL")] == []
    assert desired(service(), replace(SETTINGS, tracing=None)) == desired(service(), SETTINGS)
    assert trace_egress(None) == []


@pytest.mark.parametrize(("percent", "sampler"), [(100, None), (5, "0.05"), (0, "0.00")])
def test_workers_get_the_standard_variables(percent: int, sampler: str | None) -> None:
    found = environment(replace(HERE, sample_percent=percent))
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.obs:4318"
    assert found["OTEL_SERVICE_NAME"] == "ryzanstein-worker"
    assert found.get("OTEL_TRACES_SAMPLER_ARG") == sampler
    assert found.get("OTEL_TRACES_SAMPLER") == ("parentbased_traceidratio" if sampler else None)


def test_a_download_is_not_traced() -> None:
    found = environment(HERE, "initContainers", model={"uri": "hf://a/b"})
    assert [name for name in found if name.startswith("OTEL")] == []


def test_a_worker_reaches_the_collector_where_it_is_said_to_run_and_the_names() -> None:
    names, collector = trace_egress(HERE)
    assert names["ports"] == [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    assert collector == {
        "ports": [{"protocol": "TCP", "port": 4318}],
        "to": [{"namespaceSelector": {"matchLabels": {"team": "obs"}}}],
    }
    assert "to" not in trace_egress(replace(HERE, namespace_labels={}))[1]
    policy = desired(service(), replace(SETTINGS, tracing=HERE))["NetworkPolicy"]
    assert policy["spec"]["egress"] == [names, collector]
