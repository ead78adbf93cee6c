"""The route table between two versions: what the operator writes is what the gateway reads, and either may be older."""

import json
from typing import Any

import msgspec
import pytest

from operator_builders import SETTINGS, parsed, service
from ryzanstein_gateway.balance import Policy
from ryzanstein_gateway.kube import Meta
from ryzanstein_gateway.routes import ConfigMap, Route, parse_routes
from ryzanstein_operator.api.inference_service import Routing
from ryzanstein_operator.api.schema import structural_schema
from ryzanstein_operator.desired.gateway import route, routes_config_map

Row = dict[str, Any]
FIRST_ROW: Row = {
    "model": "chat",
    "namespace": "team",
    "service": "chat-workers",
    "port": 8000,
    "keySets": ["team-a"],
    "maxModelLen": 4096,
}
"""A row as the first version of the operator wrote it."""


def read(*rows: Row) -> Route:
    """The gateway's reading of a table with these rows; the first of them."""
    text = json.dumps({"version": 1, "models": list(rows)})
    table = parse_routes([ConfigMap(Meta(name="ryzanstein-routes", namespace="release"), {"routes.json": text})])
    return table.by_model[rows[0]["model"]]


def test_every_field_that_the_gateway_reads_is_written_and_no_other() -> None:
    written = route(parsed(service("chat")))
    assert set(written) == {field.encode_name for field in msgspec.structs.fields(Route)}


def test_what_the_spec_says_arrives() -> None:
    access = {"keySets": ["b", "a"], "requestsPerMinute": 60, "tokensPerMinute": 9000, "maxConcurrentRequests": 4}
    routing = {"policy": "PrefixAware", "maxQueuedRequests": 7, "queueTimeoutSeconds": 30}
    made = parsed(service("chat", access=access, routing=routing, engine={"maxModelLen": 4096}))
    data = routes_config_map([route(made)], SETTINGS)["data"]
    table = parse_routes([ConfigMap(Meta(name="ryzanstein-routes", namespace="release"), data)])
    assert table.by_model["chat"] == Route(
        model="chat",
        namespace="team",
        service="chat-workers",
        port=8000,
        health_port=8001,
        key_sets=("a", "b"),
        max_model_len=4096,
        policy="PrefixAware",
        requests_per_minute=60,
        tokens_per_minute=9000,
        max_concurrent_requests=4,
        max_queued_requests=7,
        queue_timeout_seconds=30,
    )


def test_an_older_operator_s_row_gets_what_a_new_spec_gets_that_says_nothing() -> None:
    new = route(parsed(service("chat", access={"keySets": ["team-a"]}, engine={"maxModelLen": 4096})))
    assert read(FIRST_ROW) == read(new)


@pytest.mark.parametrize("more", [{"temperatureOfTheRoom": 21}, {"policy": "CheapestElectricity"}])
def test_a_newer_operator_s_row_is_read_as_far_as_it_is_known(more: Row) -> None:
    found = read(FIRST_ROW | more)
    assert (found.model, Policy.of(found.policy)) == ("chat", Policy.ADAPTIVE)


def test_the_spec_offers_the_policies_that_the_gateway_has() -> None:
    assert structural_schema(Routing)["properties"]["policy"]["enum"] == [policy.value for policy in Policy]
