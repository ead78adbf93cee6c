"""The route table between two versions: what the operator writes is what the gateway reads, and either may be older."""

import base64
import json
import random
from typing import Any

import msgspec
import pytest

from operator_builders import SETTINGS, parsed, service
from ryzanstein_gateway import routes as routes_module
from ryzanstein_gateway.balance import Policy
from ryzanstein_gateway.kube import Meta
from ryzanstein_gateway.routes import ConfigMap, Route, RoutesError, parse_routes
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


def table_of(count: int) -> tuple[Row, ConfigMap]:
    """A table of so many models with names and key sets as long as they may be, all different, as the operator writes
    it and as the gateway takes it off the wire."""
    chance = random.Random(7)

    def name(length: int) -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))

    head = route(parsed(service("chat", access={"keySets": ["a"]})))
    varied = [
        {"model": name(63), "namespace": name(40), "service": name(63), "keySets": [name(40)]} for _ in range(count)
    ]
    written = routes_config_map([head | row for row in varied], SETTINGS)
    return written, msgspec.json.decode(json.dumps(written), type=ConfigMap)


def test_a_table_that_is_too_long_for_text_arrives_compressed_and_whole() -> None:
    written, read_back = table_of(1000)
    assert "data" not in written
    table = parse_routes([read_back])
    assert len(table.by_model) == 1000
    few, read_back = table_of(100)
    assert "binaryData" not in few, "a small one can be read by people"
    assert len(parse_routes([read_back]).by_model) == 100


def test_five_thousand_models_of_the_longest_names_fit_into_a_config_map() -> None:
    written, read_back = table_of(5000)
    (packed,) = written["binaryData"].values()
    assert len(base64.b64decode(packed)) < 1024 * 1024, "what the API server allows"
    assert len(parse_routes([read_back]).by_model) == 5000


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 40), slice(0, -8), slice(3, None)])
def test_a_compressed_table_that_is_damaged_is_refused(cut: slice) -> None:
    written, _ = table_of(1000)
    (packed,) = written["binaryData"].values()
    data = base64.b64decode(packed)[cut]
    with pytest.raises(RoutesError, match=r"routes\.json\.gz"):
        parse_routes([ConfigMap(Meta(name="ryzanstein-routes"), None, {"routes.json.gz": data})])


def test_a_compressed_table_cannot_take_the_gateways_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "LONGEST_TABLE", 1000)
    with pytest.raises(RoutesError, match="more than 1000 bytes"):
        parse_routes([table_of(1000)[1]])


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
