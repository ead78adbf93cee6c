"""Monitors, rules and dashboards for those who run Prometheus and Grafana themselves: there where their API is, and the
same as the chart's own Prometheus has."""

import json
import re
from functools import cache
from typing import Any

import pytest
import yaml

import chart
import flows
import operated
import scraped
from flows import Flow
from ryzanstein_worker import contract

pytestmark = [pytest.mark.helm, pytest.mark.timeout(chart.BUILD_SECONDS + 60)]

MONITORS = ("ServiceMonitor", "PodMonitor")
RULE_FILES = sorted((chart.CHART / "files/rules").glob("*.yaml"))
DASHBOARDS = sorted((chart.CHART / "files/grafana").glob("*.json"))
LET_IN = 'networkPolicy.prometheusNamespaceLabels={"kubernetes.io/metadata.name":"monitoring"}'


@cache
def rendered(*settings: str, operator: bool = True) -> tuple[chart.Manifest, ...]:
    """With the Prometheus Operator's API in the cluster, or without."""
    words = [word for setting in settings for word in ("--set-json", setting)]
    api = ["--api-versions", "monitoring.coreos.com/v1"] if operator else []
    arguments = ["template", "ryzanstein", str(chart.CHART), "--namespace", "ryzanstein", *api, *words]
    return tuple(chart.documents(chart.run_helm(*arguments)))


def names(*settings: str, operator: bool = True) -> list[str]:
    kinds = (*MONITORS, "PrometheusRule")
    found = chart.of_kind(rendered(*settings, operator=operator), *kinds)
    return sorted(f"{one['kind']}/{one['metadata']['name']}" for one in found)


def test_they_are_there_where_their_api_is_and_where_values_say_so() -> None:
    monitors = [
        "PodMonitor/ryzanstein-worker-metrics",
        "ServiceMonitor/ryzanstein-gateway-metrics",
        "ServiceMonitor/ryzanstein-operator-metrics",
    ]
    rules = ["PrometheusRule/ryzanstein"]
    assert names() == [*monitors[:1], *rules, *monitors[1:]]
    assert names(operator=False) == []
    assert names("monitoring.podMonitors=false") == rules
    assert names("monitoring.rules=false") == monitors
    assert names("monitoring.podMonitors=true", LET_IN, operator=False) == monitors
    assert names("monitoring.rules=true", operator=False) == rules


def test_an_operator_finds_them_by_the_labels_that_it_is_told() -> None:
    for one in chart.of_kind(rendered('monitoring.labels={"release":"stack"}'), *MONITORS, "PrometheusRule"):
        assert one["metadata"]["labels"].items() >= {"release": "stack", contract.LABEL_NAME: "ryzanstein"}.items()


def relabelling(endpoint: chart.Manifest) -> list[dict[str, Any]]:
    """In Prometheus' own words, as the Prometheus Operator writes them."""
    return [
        {re.sub(r"([A-Z])", lambda hit: "_" + hit[0].lower(), key): value for key, value in rule.items()}
        for rule in endpoint["relabelings"]
    ]


@pytest.mark.parametrize("settings", [(), ("clusterWide=true",), ('watchNamespaces=["a","b"]',)])
def test_they_scrape_what_the_charts_own_prometheus_scrapes_under_the_same_labels(settings: tuple[str, ...]) -> None:
    manifests = rendered(*settings)
    jobs = {job["job_name"]: job for job in
            yaml.safe_load(scraped.config(manifests)["prometheus.yaml"])["scrape_configs"]}  # fmt: skip
    for component in ("operator", "gateway", "worker"):
        kind = "PodMonitor" if component == "worker" else "ServiceMonitor"
        spec = chart.one(manifests, kind, f"ryzanstein-{component}-metrics")["spec"]
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        job = jobs[f"ryzanstein-{component}"]
        assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("health", contract.METRICS, "5s")
        assert endpoint["honorLabels"] is job["honor_labels"]
        assert spec.get("sampleLimit") == job.get("sample_limit")
        (discovery,) = job["kubernetes_sd_configs"]
        watched = discovery.get("namespaces", {}).get("names")
        assert spec["namespaceSelector"] == ({"matchNames": watched} if watched else {"any": True})
        ours = [rule for rule in job["relabel_configs"] if "pod_container_port_name" not in str(rule)]
        theirs = relabelling(endpoint)
        assert [rule for rule in ours if rule not in theirs] == []
        assert {"target_label": "job", "replacement": f"ryzanstein-{component}"} in theirs
        (dropped,) = [rule["regex"] for rule in theirs if rule.get("action") == "labeldrop"]
        assert [label for label in ("container", "endpoint", "service") if not re.fullmatch(dropped, label)] == []
        kept = (contract.SERIES_NAMESPACE, contract.SERIES_POD, contract.SERIES_SERVICE, "job", "instance")
        assert [label for label in kept if re.fullmatch(dropped, label)] == []


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_a_service_monitor_finds_its_pods_through_a_service_of_its_own_ready_or_not(component: str) -> None:
    manifests = rendered()
    monitor = chart.one(manifests, "ServiceMonitor", f"ryzanstein-{component}-metrics")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [one for one in chart.of_kind(manifests, "Service") if wanted <= one["metadata"]["labels"].items()]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    (port,) = service["spec"]["ports"]
    assert (port["name"], port["port"]) == ("health", contract.HEALTH_PORT)
    pod = chart.one(manifests, "Deployment", f"ryzanstein-{component}")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert port["targetPort"] in [one["name"] for one in pod["spec"]["containers"][0]["ports"]]


def test_a_pod_monitor_finds_the_workers() -> None:
    spec = chart.one(rendered(), "PodMonitor", "ryzanstein-worker-metrics")["spec"]
    template = scraped.workers(rendered(), "ryzanstein")["spec"]["template"]
    assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert ports[spec["podMetricsEndpoints"][0]["port"]] == contract.HEALTH_PORT


def test_another_prometheus_and_grafana_are_let_in_where_values_say_so() -> None:
    grafana = '[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]'
    deployed = operated.Deployed(rendered(LET_IN, f"networkPolicy.prometheusFrom={grafana}"), "ryzanstein")
    asks = Flow(flows.PROMETHEUS, flows.OWN_PROMETHEUS, flows.QUERIES, True, "")
    scrapes = [Flow(*scrape, True, "") for scrape in flows.SCRAPES]
    own = [Flow(flows.OWN_PROMETHEUS, target, contract.HEALTH_PORT, True, "") for _, target, _ in flows.SCRAPES]
    assert [flow for flow in (asks, *scrapes, *own) if not deployed.passes(flow)] == []
    assert not deployed.passes(Flow(flows.CLIENT, flows.OWN_PROMETHEUS, flows.QUERIES, False, ""))


@pytest.mark.parametrize(("url", "port"), [("http://p.monitoring:9090", 9090), ("https://p.example/x", 443)])
def test_the_operator_reaches_the_prometheus_that_it_is_told_of_by_its_port(url: str, port: int) -> None:
    deployed = operated.Deployed(rendered(f'prometheus.url="{url}"'), "ryzanstein")
    assert deployed.passes(Flow(flows.OPERATOR, flows.PROMETHEUS, port, True, ""))
    assert not deployed.passes(Flow(flows.OPERATOR, flows.PROMETHEUS, port + 1, False, ""))
    for _, target, health in flows.SCRAPES:
        assert not deployed.passes(Flow(flows.OWN_PROMETHEUS, target, health, False, "")), "there is none"


def test_its_rules_are_those_of_the_files_word_for_word() -> None:
    assert RULE_FILES
    files = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    assert chart.one(rendered(), "PrometheusRule", "ryzanstein")["spec"]["groups"] == files


def test_alerts_point_at_their_runbooks_where_a_copy_of_them_is() -> None:
    manifests = rendered('monitoring.runbookBaseUrl="https://git.example/blob/main/"')
    alerts = [
        rule
        for group in chart.one(manifests, "PrometheusRule", "ryzanstein")["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert alerts
    for rule in alerts:
        link = rule["annotations"]["runbook_url"]
        assert link == f"https://git.example/blob/main/docs/runbooks/{rule['alert']}.md"


def test_every_dashboard_is_a_config_map_that_grafanas_sidecar_finds() -> None:
    assert DASHBOARDS
    manifests = rendered('grafana.labels={"grafana_dashboard":"1","team":"a"}', operator=False)
    for path in DASHBOARDS:
        found = chart.one(manifests, "ConfigMap", f"ryzanstein-dashboard-{path.stem}")
        assert found["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "team": "a"}.items()
        (text,) = found["data"].values()
        assert list(found["data"]) == [path.name]
        assert json.loads(text) == json.loads(path.read_text())
        assert len(json.dumps(found)) < 2**20
    without = rendered("grafana.dashboards=false", operator=False)
    assert [one for one in without if "-dashboard-" in one["metadata"]["name"]] == []


def test_two_releases_make_nothing_of_the_same_name() -> None:
    def made(release: str, namespace: str) -> set[tuple[str, str, str]]:
        api = ("--api-versions", "monitoring.coreos.com/v1", "--set", "clusterWide=true", "--set", "crds.install=false")
        text = chart.run_helm("template", release, str(chart.CHART), "--namespace", namespace, *api)
        return {
            (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"])
            for one in chart.documents(text)
        }

    assert made("one", "a") & made("one", "b") == set()
    assert made("one", "a") & made("two", "a") == set(), "in one namespace neither"
