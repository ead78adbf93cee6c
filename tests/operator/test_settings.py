"""The environment is read once, and what cannot be used is refused with a sentence that names the variable."""

from pathlib import Path

import pytest

from ryzanstein_operator.settings import Metrics, Settings, SettingsError, Tracing

LEAST = {"RYZANSTEIN_NAMESPACE": "release", "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:1"}


def test_little_must_be_said() -> None:
    settings = Settings.from_environment(LEAST)
    assert settings == Settings("release", "ryzanstein/worker:1", watch_namespaces=("release",))
    assert not settings.watches_all


def test_all_that_the_chart_says_is_read() -> None:
    settings = Settings.from_environment(
        LEAST
        | {
            "RYZANSTEIN_WATCH_NAMESPACES": "a, b,a",
            "RYZANSTEIN_IMAGE_PULL_POLICY": "Never",
            "RYZANSTEIN_GATEWAY_URL": "http://gateway:8000/",
            "RYZANSTEIN_GATEWAY_LABELS": "app.kubernetes.io/name=ryzanstein,x=",
            "RYZANSTEIN_METRICS_NAMESPACE_LABELS": "team=monitoring",
            "RYZANSTEIN_PROMETHEUS_LABELS": "app.kubernetes.io/component=prometheus",
            "RYZANSTEIN_LEASE_NAME": "lease",
            "RYZANSTEIN_POD_NAME": "operator-0",
            "RYZANSTEIN_HUB_ENDPOINT": "https://mirror.example/",
            "RYZANSTEIN_TRACING_ENDPOINT": "http://collector.obs:4318/",
            "RYZANSTEIN_TRACING_SAMPLE_PERCENT": "5",
            "RYZANSTEIN_TRACING_NAMESPACE_LABELS": "team=obs",
            "RYZANSTEIN_NODE_HEALTH": "true",
            "RYZANSTEIN_NODE_TAINTS": "true",
        }
    )
    assert settings == Settings(
        namespace="release",
        worker_image="ryzanstein/worker:1",
        gateway_url="http://gateway:8000",
        watch_namespaces=("a", "b"),
        image_pull_policy="Never",
        gateway_labels={"app.kubernetes.io/name": "ryzanstein", "x": ""},
        metrics_namespace_labels={"team": "monitoring"},
        prometheus_labels={"app.kubernetes.io/component": "prometheus"},
        lease_name="lease",
        pod_name="operator-0",
        hub_endpoint="https://mirror.example",
        tracing=Tracing("http://collector.obs:4318", 5, {"team": "obs"}),
        node_health=True,
        node_taints=True,
    )


def test_a_prometheus_may_want_a_token_and_have_an_authority_of_its_own() -> None:
    assert Settings.from_environment(LEAST | {"RYZANSTEIN_PROMETHEUS_URL": ""}).prometheus is None
    settings = Settings.from_environment(
        LEAST
        | {
            "RYZANSTEIN_PROMETHEUS_URL": "https://prometheus.monitoring:9090/prefix/",
            "RYZANSTEIN_PROMETHEUS_TOKEN_FILE": "/etc/token",
            "RYZANSTEIN_PROMETHEUS_CA_FILE": "/etc/ca.crt",
        }
    )
    assert settings.prometheus == Metrics(
        "https://prometheus.monitoring:9090/prefix", Path("/etc/token"), Path("/etc/ca.crt")
    )


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("prometheus:9090", {}, "must start with http:// or https://"),
        ("http://", {}, "must start with"),
        ("http://:9090", {}, "must name a host"),
        ("http://p:0", {}, "its port must be from 1 to 65535"),
        ("http://p:99999", {}, "its port must be from 1 to 65535"),
        ("http://me:secret@p", {}, "holds a user, a query or a fragment"),
        ("http://p/?x=1", {}, "holds a user, a query or a fragment"),
        ("", {"RYZANSTEIN_PROMETHEUS_TOKEN_FILE": "/t"}, "is not set, but a token"),
        ("", {"RYZANSTEIN_PROMETHEUS_CA_FILE": "/c"}, "is not set, but a token or an authority"),
        ("http://p", {"RYZANSTEIN_PROMETHEUS_CA_FILE": "/c"}, "which is for https:// alone"),
    ],
)
def test_a_prometheus_that_cannot_be_asked_is_refused_in_words(url: str, more: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match="RYZANSTEIN_PROMETHEUS_URL") as caught:
        Settings.from_environment(LEAST | {"RYZANSTEIN_PROMETHEUS_URL": url} | more)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "port"), [("http://c:4318", 4318), ("http://c", 80), ("https://c/otlp", 443), ("http://[::1]:1", 1)]
)
def test_the_port_of_a_collector_is_told_by_its_url(endpoint: str, port: int) -> None:
    tracing = Settings.from_environment(LEAST | {"RYZANSTEIN_TRACING_ENDPOINT": endpoint}).tracing
    assert tracing is not None
    assert tracing.port == port


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RYZANSTEIN_TRACING_ENDPOINT", "collector:4318"),
        ("RYZANSTEIN_TRACING_ENDPOINT", "http://"),
        ("RYZANSTEIN_TRACING_ENDPOINT", "http://c:70000"),
        ("RYZANSTEIN_TRACING_SAMPLE_PERCENT", "101"),
        ("RYZANSTEIN_TRACING_SAMPLE_PERCENT", "-1"),
        ("RYZANSTEIN_TRACING_NAMESPACE_LABELS", "obs"),
    ],
)
def test_a_collector_that_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(LEAST | {"RYZANSTEIN_TRACING_ENDPOINT": "http://c:4318"} | {name: value})


def test_a_star_watches_every_namespace() -> None:
    assert Settings.from_environment(LEAST | {"RYZANSTEIN_WATCH_NAMESPACES": "*"}).watches_all


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RYZANSTEIN_NAMESPACE", ""),
        ("RYZANSTEIN_NAMESPACE", "Release"),
        ("RYZANSTEIN_WORKER_IMAGE", " "),
        ("RYZANSTEIN_WATCH_NAMESPACES", "a,*"),
        ("RYZANSTEIN_WATCH_NAMESPACES", "a/b"),
        ("RYZANSTEIN_WATCH_NAMESPACES", "a" * 64),
        ("RYZANSTEIN_IMAGE_PULL_POLICY", "Sometimes"),
        ("RYZANSTEIN_GATEWAY_URL", "gateway:8000"),
        ("RYZANSTEIN_GATEWAY_LABELS", "app"),
        ("RYZANSTEIN_GATEWAY_LABELS", "a b=c"),
        ("RYZANSTEIN_METRICS_NAMESPACE_LABELS", "a=b c"),
        ("RYZANSTEIN_PROMETHEUS_LABELS", "prometheus"),
        ("RYZANSTEIN_LEASE_NAME", "Lease"),
        ("RYZANSTEIN_HUB_ENDPOINT", "mirror"),
        ("RYZANSTEIN_NODE_HEALTH", "yes"),
        ("RYZANSTEIN_NODE_TAINTS", "1"),
        ("RYZANSTEIN_NODE_TAINTS", "true"),  # without RYZANSTEIN_NODE_HEALTH
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(LEAST | {name: value})
