"""What is made beside the Deployment, how it is named and owned, and who may reach the workers."""

import json
from typing import Any

import pytest

from operator_builders import SETTINGS, desired, parsed, service
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.desired.gateway import route, routes_config_map, service_url
from ryzanstein_operator.settings import Settings

HUB = {"uri": "hf://Qwen/Qwen3-8B"}


def test_one_child_of_each_kind_is_named_labelled_and_owned() -> None:
    live = service()
    found = children(parsed(live), SETTINGS, 1)
    assert [(child["apiVersion"], child["kind"]) for child in found] == list(names.CHILD_KINDS)
    for child in found:
        metadata = child["metadata"]
        assert metadata["name"] == names.child_name(child["kind"], "chat")
        assert metadata["namespace"] == "team"
        assert names.labels("chat").items() <= metadata["labels"].items()
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("InferenceService", "chat", "uid-team-chat")
        assert owner["controller"] is True


def test_every_name_of_the_longest_service_fits_a_dns_label() -> None:
    for kind in dict(names.CHILD_KINDS).values():
        assert len(names.child_name(kind, "a" * 40)) <= 63


def test_a_removed_field_shows_in_the_hash_of_what_was_applied() -> None:
    hashes = {
        desired(service(**spec))["Deployment"]["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        for spec in ({}, {"template": {"nodeSelector": {"a": "b"}}}, {"replicas": 2})
    }
    assert len(hashes) == 3


def test_the_service_is_headless_and_finds_the_ports_by_name() -> None:
    spec = desired(service())["Service"]["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["selector"] == names.selector("chat")
    assert {port["name"]: (port["port"], port["targetPort"]) for port in spec["ports"]} == {
        "api": (8000, "api"),
        "health": (8001, "health"),
        "grpc": (8002, "grpc"),
    }


def test_the_account_has_no_token() -> None:
    assert desired(service())["ServiceAccount"]["automountServiceAccountToken"] is False


def policy(settings: Settings = SETTINGS, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = desired(service(**spec), settings)["NetworkPolicy"]["spec"]
    return found


def test_only_the_gateway_reaches_a_worker_and_a_worker_reaches_nothing() -> None:
    found = policy()
    assert found["policyTypes"] == ["Ingress", "Egress"]
    assert found["podSelector"] == {"matchLabels": names.selector("chat")}
    (rule,) = found["ingress"]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "release"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}},
        }
    ]
    assert [port["port"] for port in rule["ports"]] == [8000, 8001]
    assert found["egress"] == []
    assert policy(model={"uri": "pvc://models"})["egress"] == []


def test_scrapers_reach_the_metrics_port_alone() -> None:
    settings = Settings(
        namespace="release",
        worker_image="w",
        metrics_namespace_labels={"team": "monitoring"},
        prometheus_labels={"app.kubernetes.io/component": "prometheus"},
    )
    scrape = policy(settings)["ingress"][1]
    home = {"kubernetes.io/metadata.name": "release"}
    own = {"app.kubernetes.io/component": "prometheus"}
    assert scrape["from"] == [
        {"namespaceSelector": {"matchLabels": home}, "podSelector": {"matchLabels": own}},
        {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}},
    ]
    assert [port["port"] for port in scrape["ports"]] == [8001]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("https://mirror.example", 443),
        ("http://mirror.example", 80),
        ("http://mirror.example:8080/hf", 8080),
    ],
)
def test_a_hub_model_reaches_names_and_the_hub(endpoint: str, port: int) -> None:
    settings = Settings(namespace="release", worker_image="w", hub_endpoint=endpoint)
    names_rule, hub = policy(settings, model=HUB)["egress"]
    assert [(item["protocol"], item["port"]) for item in names_rule["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert [(item["protocol"], item["port"]) for item in hub["ports"]] == [("TCP", port)]


@pytest.mark.parametrize(("unavailable", "expected"), [(0, 1), (1, 1), (3, 3)])
def test_a_node_drain_may_always_take_one(unavailable: int, expected: int) -> None:
    spec = desired(service(disruption={"maxUnavailable": unavailable}))["PodDisruptionBudget"]["spec"]
    assert spec["maxUnavailable"] == expected
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_route_table_is_the_contract_s_and_sorted() -> None:
    access = {"keySets": ["z", "a"], "requestsPerMinute": 60, "tokensPerMinute": 9000, "maxConcurrentRequests": 4}
    routing = {"policy": "PrefixAware", "maxQueuedRequests": 0, "queueTimeoutSeconds": 600}
    first = parsed(service("b", access=access, routing=routing, engine={"maxModelLen": 4096}))
    second = parsed(service("a", namespace="other", model={"uri": "demo://", "name": "tiny"}))
    tables = [
        routes_config_map([route(one), route(other)], SETTINGS) for one, other in ((first, second), (second, first))
    ]
    assert tables[0] == tables[1]
    assert tables[0]["metadata"]["namespace"] == "release"
    assert tables[0]["metadata"]["name"] == "ryzanstein-routes"
    assert json.loads(tables[0]["data"]["routes.json"]) == {
        "version": 1,
        "models": [
            {
                "model": "b",
                "namespace": "team",
                "service": "b-workers",
                "port": 8000,
                "healthPort": 8001,
                "keySets": ["a", "z"],
                "maxModelLen": 4096,
                "policy": "PrefixAware",
                "requestsPerMinute": 60,
                "tokensPerMinute": 9000,
                "maxConcurrentRequests": 4,
                "maxQueuedRequests": 0,
                "queueTimeoutSeconds": 600,
            },
            {
                "model": "tiny",
                "namespace": "other",
                "service": "a-workers",
                "port": 8000,
                "healthPort": 8001,
                "keySets": [],
                "maxModelLen": None,
                "policy": "Adaptive",
                "requestsPerMinute": None,
                "tokensPerMinute": None,
                "maxConcurrentRequests": None,
                "maxQueuedRequests": 256,
                "queueTimeoutSeconds": 30,
            },
        ],
    }


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({}, 30),
        ({"replicas": 0}, 30),
        ({"autoscaling": {"minReplicas": 1}}, 30),
        ({"autoscaling": {"minReplicas": 0}}, 600),
        ({"autoscaling": {"minReplicas": 0}, "routing": {"queueTimeoutSeconds": 20}}, 20),
    ],
)
def test_the_first_request_at_zero_waits_long_enough_for_a_model_to_load(spec: dict[str, Any], seconds: int) -> None:
    if "autoscaling" in spec:
        targets = [{"metric": "WaitingRequests", "value": 5}]
        spec = spec | {"autoscaling": {"maxReplicas": 2, "targets": targets, **spec["autoscaling"]}}
    assert route(parsed(service(**spec)))["queueTimeoutSeconds"] == seconds


def test_clients_are_given_the_gateway_s_url() -> None:
    assert service_url(SETTINGS) == "http://gateway.release/v1"
    assert service_url(Settings(namespace="release", worker_image="w")) == ""
