"""The list of a worker's metrics is whole, made without a worker, and nothing of it exists before it is asked for."""

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ryzanstein_worker import contract
from ryzanstein_worker.telemetry.catalogue import catalogue
from ryzanstein_worker.telemetry.exposition import expose


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return catalogue()


def test_nothing_is_registered_at_import(registry: CollectorRegistry) -> None:
    assert registry is not prometheus_client.REGISTRY
    assert not [family.name for family in prometheus_client.REGISTRY.collect() if family.name.startswith("ryzanstein")]


def test_every_metric_of_the_contract_is_in_the_list_with_its_labels_and_a_sentence(
    registry: CollectorRegistry,
) -> None:
    families = {family.name: family for family in registry.collect()}
    constants = {value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}
    named = {value for value in constants if value.startswith("ryzanstein_")}
    elsewhere = {name for name in named if name.startswith(("ryzanstein_gateway_", "ryzanstein_operator_"))}
    assert families.keys() == named - elsewhere
    for family in families.values():
        assert family.documentation.endswith("."), family.name
        assert family.samples, family.name
        assert all(sample.labels["model_name"] == "model" for sample in family.samples)


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("text/html", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4", True),
        ("application/openmetrics-text;version=x.y", False),
    ],
)
def test_openmetrics_is_for_who_asks(registry: CollectorRegistry, accept: str, is_open: bool) -> None:
    page = expose(registry, accept)
    assert page.content_type.startswith("application/openmetrics-text" if is_open else "text/plain; version=0.0.4")
    assert page.body.endswith(b"# EOF\n") is is_open
    assert b"_created" not in page.body
    if is_open:
        assert len(list(text_string_to_metric_families(page.body.decode()))) == len(list(registry.collect()))
