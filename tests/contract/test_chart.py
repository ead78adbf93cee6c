"""The chart through Helm itself: what it renders for many sets of values, and how it refuses what makes no sense."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import chart
import flows
import operated
import podsecurity
from flows import PROMETHEUS, SCRAPES, Flow
from ryzanstein_gateway.settings import read_settings
from ryzanstein_operator.cluster.resources import cluster_rules
from ryzanstein_operator.desired.traces import trace_environment
from ryzanstein_operator.trace import is_enabled

# Helm may have to be built first.
pytestmark = [pytest.mark.helm, pytest.mark.timeout(chart.BUILD_SECONDS + 60)]

VALUES_FILES = sorted(path.stem for path in chart.VALUES.glob("*.yaml"))
GOLDEN_CLUSTER_WIDE = chart.ROOT / "tests/contract/golden/rbac-cluster-wide.txt"


@cache
def rendered(name: str) -> Sequence[chart.Manifest]:
    return tuple(chart.render(values=chart.VALUES / f"{name}.yaml"))


def test_helm_lint_finds_nothing() -> None:
    chart.run_helm("lint", "--strict", "--quiet", str(chart.CHART))


def test_the_committed_install_is_what_the_chart_renders() -> None:
    namespace, *rest = chart.installed()
    assert namespace["kind"] == "Namespace"
    left_out = ("defaultKey.create=false", "demandKey.create=false", "grafana.dashboards=false")
    assert rest == chart.render(*left_out), "run scripts/render_manifests.sh"


@pytest.mark.parametrize("name", VALUES_FILES)
def test_pods_pass_our_bar_whatever_the_values(name: str) -> None:
    for deployment in chart.of_kind(rendered(name), "Deployment"):
        assert podsecurity.complaints(deployment["spec"]["template"], may_have_token=True) == []


@pytest.mark.parametrize("name", VALUES_FILES)
def test_operator_and_gateway_take_their_settings_whatever_the_values(name: str) -> None:
    operator = operated.settings_of(rendered(name))
    gateway = read_settings(chart.environment(chart.one(rendered(name), "Deployment", "ryzanstein-gateway")))
    assert operator.namespace == gateway.namespace == "ryzanstein"
    assert operator.watch_namespaces == (() if gateway.watch_namespaces == ("*",) else gateway.watch_namespaces)


def test_the_cluster_wide_install_grants_its_golden_list() -> None:
    assert chart.grant_lines(chart.grants(rendered("cluster-wide"))) == GOLDEN_CLUSTER_WIDE.read_text().splitlines()


def test_cluster_wide_adds_a_place_and_no_right() -> None:
    def rights(manifests: Sequence[chart.Manifest]) -> set[tuple[str, ...]]:
        return {(g.subject, g.group, g.resource, g.name, g.verb) for g in chart.grants(manifests)}

    assert rights(rendered("cluster-wide")) == rights(chart.installed())


def test_nodes_may_be_tainted_where_the_values_say_so_and_read_nowhere_else() -> None:
    def on_nodes(*settings: str) -> set[str]:
        return {grant.verb for grant in chart.grants(chart.render(*settings)) if grant.resource == "nodes"}

    assert on_nodes("nodeHealth.taint=true") == {"get", "list", "watch", "patch"}
    assert {verb for rule in cluster_rules(taints=True) for verb in rule.verbs} == on_nodes("nodeHealth.taint=true")
    assert on_nodes("nodeHealth.enabled=false") == set()
    tainting = operated.settings_of(chart.render("nodeHealth.taint=true"))
    assert (tainting.node_health, tainting.node_taints) == (True, True)
    with pytest.raises(chart.HelmError, match=r"needs nodeHealth\.enabled"):
        chart.render("nodeHealth.taint=true", "nodeHealth.enabled=false")


def test_the_operator_reaches_kubelets_only_where_it_looks_after_nodes() -> None:
    kubelet = Flow(flows.OPERATOR, flows.NODE, 10250, True, "")
    assert operated.Deployed(chart.installed(), "ryzanstein").passes(kubelet)
    assert not operated.Deployed(rendered("locked-down"), "team-a").passes(kubelet)
    elsewhere = chart.render('nodeHealth.nodeCIDRs=["10.9.0.0/16"]')
    assert not operated.Deployed(elsewhere, "ryzanstein").passes(kubelet)


def test_each_watched_namespace_gets_its_roles_and_the_release_none_of_them() -> None:
    scopes = {grant.scope for grant in chart.grants(rendered("locked-down")) if grant.resource == "deployments"}
    assert scopes == {"team-a", "team-b"}
    assert chart.of_kind(rendered("locked-down"), "ClusterRole", "CustomResourceDefinition") == []


@pytest.mark.parametrize(
    ("name", "namespace"), [("cluster-wide", "anywhere"), ("locked-down", "team-b"), ("kind", "ryzanstein")]
)
def test_workers_are_reached_in_every_watched_namespace(name: str, namespace: str) -> None:
    deployed = operated.Deployed(rendered(name), namespace)
    for target in (flows.WORKER, flows.HUB_WORKER):
        assert deployed.passes(Flow(flows.GATEWAY, target, flows.API, True, ""))
    assert not deployed.passes(Flow(flows.CLIENT, flows.WORKER, flows.API, False, ""))
    assert deployed.passes(Flow(flows.GATEWAY, flows.FOREIGN_WORKER, flows.API, False, "")) is (name == "cluster-wide")


def test_prometheus_reads_metrics_where_the_chart_knows_its_namespace_and_nobody_else_does() -> None:
    deployed = operated.Deployed(rendered("cluster-wide"), "anywhere")
    for source, target, port in SCRAPES:
        assert deployed.passes(Flow(source, target, port, True, ""))
        assert not deployed.passes(Flow(flows.CLIENT, target, port, False, ""))
    assert not deployed.passes(Flow(PROMETHEUS, flows.WORKER, flows.API, False, ""))


def test_traces_reach_the_collector_alone_and_only_where_the_chart_knows_one() -> None:
    told = ['tracing.endpoint="http://collector.monitoring:4318"']
    labelled = 'tracing.collectorNamespaceLabels={"kubernetes.io/metadata.name":"monitoring"}'
    inside = operated.Deployed(chart.render(*told, labelled), "ryzanstein")
    anywhere = operated.Deployed(chart.render(*told), "ryzanstein")
    nowhere = operated.Deployed(chart.installed(), "ryzanstein")
    for source in (flows.GATEWAY, flows.WORKER, flows.OPERATOR):
        collector, outside = Flow(source, PROMETHEUS, 4318, True, ""), Flow(source, flows.OUTSIDE, 4318, False, "")
        assert (inside.passes(collector), inside.passes(outside)) == (True, False)
        assert (anywhere.passes(collector), anywhere.passes(outside)) == (True, True)
        assert (nowhere.passes(collector), nowhere.passes(outside)) == (False, False)
        assert inside.passes(Flow(source, flows.DNS, 53, True, "", "UDP"))
        assert not inside.passes(Flow(source, PROMETHEUS, 4317, False, ""))


def test_gateway_and_operator_are_told_the_same_of_traces() -> None:
    manifests = chart.render('tracing={"endpoint":"http://c:4318","samplePercent":7}')
    gateway = chart.environment(chart.one(manifests, "Deployment", "ryzanstein-gateway"))
    tracing = operated.settings_of(manifests).tracing
    assert tracing is not None
    workers = {one["name"]: one["value"] for one in trace_environment(tracing)}
    assert gateway.items() >= (workers | {"OTEL_SERVICE_NAME": "ryzanstein-gateway"}).items()
    assert read_settings(gateway).traces
    operator = chart.environment(chart.one(manifests, "Deployment", "ryzanstein-operator"))
    assert operator.items() >= (workers | {"OTEL_SERVICE_NAME": "ryzanstein-operator"}).items()
    assert is_enabled(operator)
    assert not is_enabled(chart.environment(chart.one(chart.installed(), "Deployment", "ryzanstein-operator")))
    assert operated.settings_of(chart.installed()).tracing is None


def test_the_gateway_can_be_closed_to_all_but_some_and_the_api_server_be_named() -> None:
    deployed = operated.Deployed(rendered("locked-down"), "team-a")
    assert not deployed.passes(Flow(flows.CLIENT, flows.GATEWAY, flows.API, False, ""))
    assert not deployed.passes(Flow(flows.OPERATOR, flows.APISERVER, 6443, False, "")), "172.18.0.2 is not its address"
    assert not deployed.passes(Flow(flows.OPERATOR, flows.OUTSIDE, 443, False, ""))


def test_a_digest_wins_over_a_tag() -> None:
    settings = operated.settings_of(rendered("locked-down"))
    assert settings.worker_image == "registry.example/ryzanstein/worker@sha256:" + "3".zfill(64)


def test_key_sets_are_mounted_under_their_names_and_may_come_later() -> None:
    gateway = chart.one(rendered("locked-down"), "Deployment", "ryzanstein-gateway")["spec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in gateway["containers"][0]["volumeMounts"]}
    assert mounts["keyset-team-b"] == "/etc/ryzanstein/keysets/team-b"
    sources = {v["name"]: v["projected"]["sources"][0].get("secret") for v in gateway["volumes"] if "projected" in v}
    assert sources["keyset-team-a"] == {"name": "ryzanstein-keyset-team-a", "optional": True}
    assert sources["keyset-team-b"] == {"name": "keys-of-team-b", "optional": True}


def test_the_gateway_speaks_tls_with_the_secret_that_the_chart_names_and_plain_text_without() -> None:
    deployment = chart.one(rendered("locked-down"), "Deployment", "ryzanstein-gateway")
    settings, pod = read_settings(chart.environment(deployment)), deployment["spec"]["template"]["spec"]
    assert settings.processes == 3
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "tls"]
    assert (mount["readOnly"], mount.get("subPath")) == (True, None), "the kubelet swaps whole folders only"
    assert {settings.tls_cert_file, settings.tls_key_file} == {
        Path(mount["mountPath"], name) for name in ("tls.crt", "tls.key")
    }
    assert [one["secret"]["secretName"] for one in pod["volumes"] if one["name"] == "tls"] == ["models-example-tls"]
    plain = read_settings(chart.environment(chart.one(rendered("kind"), "Deployment", "ryzanstein-gateway")))
    assert plain.tls_cert_file is None
    urls = [operated.settings_of(chart.render(f'gateway.tls.secretName="{name}"')).gateway_url for name in ("c", "")]
    assert urls == ["https://ryzanstein-gateway.ryzanstein.svc:80", "http://ryzanstein-gateway.ryzanstein.svc"]


def test_the_default_key_is_stored_beside_its_hash_and_only_the_hash_is_mounted() -> None:
    manifests = chart.render()
    key = chart.one(manifests, "Secret", "ryzanstein-default-key")["stringData"]["key"]
    stored = chart.one(manifests, "Secret", "ryzanstein-keyset-default")["stringData"]["default"]
    assert len(key) >= 40
    assert stored == hashlib.sha256(key.encode()).hexdigest()
    assert "ryzanstein-default-key" not in json.dumps(chart.of_kind(manifests, "Deployment"))
    assert key != chart.one(chart.render(), "Secret", "ryzanstein-default-key")["stringData"]["key"], "drawn, not fixed"
    assert b64encode(key.encode()).decode() not in json.dumps(manifests)


def test_the_key_for_the_operator_is_drawn_and_gateway_replicas_and_priorities_are_told() -> None:
    drawn = [chart.one(chart.render(), "Secret", "ryzanstein-demand-key")["stringData"]["key"] for _ in range(2)]
    assert all(len(key) >= 40 for key in drawn)
    assert drawn[0] != drawn[1], "drawn, not fixed"
    gateway = read_settings(chart.environment(chart.one(rendered("locked-down"), "Deployment", "ryzanstein-gateway")))
    assert (gateway.replicas, gateway.high_priority_key_sets) == (3, {"team-a"})


def test_notes_tell_how_to_send_the_first_request() -> None:
    def notes(*settings: str) -> str:
        words = [word for setting in settings for word in ("--set-json", setting)]
        return chart.run_helm("install", "r", str(chart.CHART), "--dry-run=client", "--namespace", "n", *words)

    plain = notes().partition("NOTES:")[2]
    assert "kubectl port-forward -n n service/r-gateway 8080:80" in plain
    assert "kubectl get secret r-default-key -n n" in plain
    assert "Authorization: Bearer $KEY" in plain
    assert "5. Look at it: open $URL/ui in a browser, with the same key.\n" in plain
    assert "keep its Prometheus out" not in plain
    node_port = notes('gateway.service={"type":"NodePort","nodePort":30080}').partition("NOTES:")[2]
    assert "URL=http://$NODE:30080" in node_port
    open_to_all = notes('gateway.auth="none"').partition("NOTES:")[2]
    assert "Authorization" not in open_to_all
    by_hand = notes("defaultKey.create=false").partition("NOTES:")[2]
    assert "kubectl create secret generic r-keyset-default -n n" in by_hand


def test_notes_warn_of_monitors_whose_prometheus_is_kept_out() -> None:
    def warned(*settings: str) -> bool:
        words = [word for setting in settings for word in ("--set-json", setting)]
        words += ["--dry-run=client", "--namespace", "n"]
        return "networkPolicy.prometheusNamespaceLabels" in chart.run_helm("install", "r", str(chart.CHART), *words)

    let_in = 'networkPolicy.prometheusNamespaceLabels={"name":"monitoring"}'
    assert warned("monitoring.rules=true")
    assert not warned("monitoring.rules=true", let_in)
    assert not warned("monitoring.podMonitors=true", let_in)
    assert not warned("monitoring.podMonitors=true", "networkPolicy.enabled=false")


REFUSALS: list[tuple[list[str], str]] = [
    (
        ["clusterWide=true", 'watchNamespaces=["a"]'],
        "clusterWide watches every namespace, so watchNamespaces must be empty",
    ),
    (['gateway.keySets=[{"name":"default"},{"name":"default"}]'], 'gateway.keySets names "default" twice'),
    (['gateway.keySets=[{"name":"team-a"}]'], 'defaultKey.create makes a key for the key set "default"'),
    (
        ["gateway.service.nodePort=30080"],
        "gateway.service.nodePort needs gateway.service.type NodePort or LoadBalancer",
    ),
    (['gateway.externalUrl="models.example"'], "gateway.externalUrl must be an http:// or https:// URL"),
    (['gateway.externalUrl="https://models.example/v1"'], "leave out the /v1 at its end"),
    (['images.worker.digest="latest"'], "images.worker.digest must be sha256: and 64 hex digits"),
    (['tracing.endpoint="collector:4318"'], "tracing.endpoint must be an http:// or https:// URL"),
    (['worker.hubEndpoint="hub"'], "worker.hubEndpoint must be an http:// or https:// URL"),
    (
        ["networkPolicy.enabled=false", 'networkPolicy.gatewayFrom=[{"podSelector":{}}]'],
        "networkPolicy.gatewayFrom has no effect while networkPolicy.enabled is false",
    ),
    (['gateway.highPriorityKeySets=["team-a"]'], 'gateway.highPriorityKeySets names "team-a", which is not in'),
    (["gateway.replica=3"], "additional properties 'replica' not allowed"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_nonsense_is_refused_in_words(settings: list[str], words: str) -> None:
    with pytest.raises(chart.HelmError) as refusal:
        chart.render(*settings)
    assert words in refusal.value.words


def test_network_policies_can_be_left_to_others() -> None:
    manifests: list[dict[str, Any]] = chart.render("networkPolicy.enabled=false")
    assert chart.of_kind(manifests, "NetworkPolicy") == []
