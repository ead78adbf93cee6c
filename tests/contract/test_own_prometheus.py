"""The Prometheus that the chart brings: its configuration holds, and every series bears the labels of the contract."""

import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import chart
import operated
import realprometheus
import scraped
from ryzanstein_worker import contract
from scraped import Pod

pytestmark = [pytest.mark.helm, pytest.mark.timeout(chart.BUILD_SECONDS + 120)]

PAGE = """# TYPE ryzanstein_some gauge
ryzanstein_some 1
# TYPE ryzanstein_operator_ready_replicas gauge
ryzanstein_operator_ready_replicas{namespace="of-the-service",name="chat"} 2
# TYPE ryzanstein_liar gauge
ryzanstein_liar{pod="another",inference_service="another"} 1
"""
"""What a component might say: of itself, of a service elsewhere, and in another's name."""


@cache
def rendered(*settings: str) -> tuple[chart.Manifest, ...]:
    return tuple(chart.render(*settings))


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The address of a metrics page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == contract.METRICS else 404)
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def scraped_once(prometheus: realprometheus.Prometheus, count: int) -> list[dict[str, str]]:
    """The labels of all series at a moment at which so many targets are up; another moment's might lack those of a
    scrape that came too late."""
    deadline = time.monotonic() + 120
    while True:
        samples = prometheus.query('{__name__=~"up|ryzanstein_.+"}')
        if sum(one["metric"]["__name__"] == "up" and one["value"][1] == "1" for one in samples) >= count:
            return [{key: value for key, value in one["metric"].items() if key != "instance"} for one in samples]
        assert time.monotonic() < deadline, prometheus.targets()
        time.sleep(0.1)


def write(folder: Path, manifests: tuple[chart.Manifest, ...]) -> Path:
    for name, text in scraped.config(manifests).items():
        (folder / name).write_text(text.replace("/etc/prometheus/", f"{folder}/"))
    return folder / "prometheus.yaml"


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("clusterWide=true", "prometheus.scrapeIntervalSeconds=30"),
        ('watchNamespaces=["a","b"]', 'monitoring.runbookBaseUrl="https://git.example/blob/main"'),
    ],
)
def test_prometheus_takes_the_configuration_and_every_rule(settings: tuple[str, ...], tmp_path: Path) -> None:
    said = realprometheus.promtool("check", "config", str(write(tmp_path, rendered(*settings))))
    assert said.returncode == 0, said.stdout + said.stderr
    rules = len(list((chart.CHART / "files/rules").glob("*.yaml")))
    assert len(list(tmp_path.glob("rules-*.yaml"))) == rules
    assert f"SUCCESS: {rules} rule files found" in said.stdout


def test_every_series_bears_the_labels_of_the_contract(page: str, tmp_path: Path) -> None:
    manifests = rendered('watchNamespaces=["team-a"]', "prometheus.scrapeIntervalSeconds=1")
    ours = [chart.one(manifests, "Deployment", f"ryzanstein-{name}") for name in ("operator", "gateway", "prometheus")]
    pods = [Pod.of(workload, page) for workload in (*ours, scraped.workers(manifests, "team-a"))]
    pods += [Pod.of(ours[0], page, "Succeeded"), Pod.of(scraped.workers(manifests, "unwatched"), page)]
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": scraped.scrape_jobs(manifests, pods)})
    )
    release = {contract.SERIES_NAMESPACE: "ryzanstein"}
    with realprometheus.running(config, tmp_path) as prometheus:
        found = scraped_once(prometheus, 3)
    operator = {"job": contract.JOB_OPERATOR, "pod": "ryzanstein-operator-running", **release}
    gateway = {"job": contract.JOB_GATEWAY, "pod": "ryzanstein-gateway-running", **release}
    worker = {"job": contract.JOB_WORKER, "pod": "demo-running", contract.SERIES_NAMESPACE: "team-a"}
    worker[contract.SERIES_SERVICE] = "demo"

    def of(name: str) -> list[dict[str, str]]:
        kept = [{key: value for key, value in one.items() if key != "__name__"} for one in found
                if one["__name__"] == name]  # fmt: skip
        return sorted(kept, key=lambda labels: labels["job"])

    assert of("up") == of("ryzanstein_some") == [gateway, operator, worker]
    told = {"namespace": "of-the-service", "name": "chat"}
    assert of("ryzanstein_operator_ready_replicas")[1] == operator | told, "what is said of a service is about it"
    (lie,) = [one for one in of("ryzanstein_liar") if one["job"] == contract.JOB_WORKER]
    assert lie.items() >= worker.items(), "a worker speaks for no other"


def test_the_documented_jobs_for_any_prometheus_are_the_charts(tmp_path: Path) -> None:
    page = (chart.ROOT / "docs/autoscaling.md").read_text()
    (block,) = [part.partition("```")[0] for part in page.split("```yaml\n") if part.startswith("scrape_configs:")]
    (tmp_path / "config.yaml").write_text(block)
    said = realprometheus.promtool("check", "config", str(tmp_path / "config.yaml"))
    assert said.returncode == 0, said.stderr
    told = {job["job_name"]: job for job in yaml.safe_load(block)["scrape_configs"]}
    for job in yaml.safe_load(scraped.config(rendered())["prometheus.yaml"])["scrape_configs"]:
        if "kubernetes_sd_configs" not in job:
            continue
        documented = told.pop(job["job_name"])
        assert documented.get("honor_labels", False) is job["honor_labels"]
        assert [rule for rule in job["relabel_configs"] if rule not in documented["relabel_configs"]] == []
        (here,), (there,) = documented["kubernetes_sd_configs"], job["kubernetes_sd_configs"]
        labels = [set(discovery["selectors"][0]["label"].split(",")) for discovery in (here, there)]
        assert labels[0] == {label for label in labels[1] if "/instance=" not in label}
    assert told == {}


def test_the_operator_is_told_where_metrics_are() -> None:
    own = operated.settings_of(rendered())
    assert own.prometheus is not None
    service = chart.one(rendered(), "Service", "ryzanstein-prometheus")
    assert own.prometheus.url == f"http://ryzanstein-prometheus.ryzanstein.svc:{service['spec']['ports'][0]['port']}"
    pods = chart.one(rendered(), "Deployment", "ryzanstein-prometheus")["spec"]["template"]["metadata"]["labels"]
    assert own.prometheus_labels.items() <= pods.items()
    assert service["spec"]["selector"].items() <= pods.items()
    none = operated.settings_of(rendered("prometheus.install=false"))
    assert (none.prometheus, dict(none.prometheus_labels)) == (None, {})


def test_another_prometheus_is_asked_with_its_token_and_certificates_and_none_is_brought() -> None:
    manifests = chart.render(values=chart.VALUES / "own-prometheus.yaml")
    settings = operated.settings_of(manifests)
    assert settings.prometheus is not None
    assert settings.prometheus.url == "https://thanos.monitoring.svc:10902/team"
    pod = chart.one(manifests, "Deployment", "ryzanstein-operator")["spec"]["template"]["spec"]
    mounts = {one["name"]: Path(one["mountPath"]) for one in pod["containers"][0]["volumeMounts"]}
    assert settings.prometheus.token_file == mounts["prometheus-token"] / "bearer"
    assert settings.prometheus.ca_file == mounts["prometheus-ca"] / "ca.crt"
    secrets = {volume["name"]: volume["projected"]["sources"][0].get("secret") for volume in pod["volumes"]
               if "projected" in volume}  # fmt: skip
    assert (secrets["prometheus-token"]["name"], secrets["prometheus-ca"]["name"]) == ("thanos-token", "thanos-ca")
    # Of the names, not of the rules and dashboards, which are about Prometheus whoever runs it.
    assert [one["kind"] for one in manifests if one["metadata"]["name"] == "ryzanstein-prometheus"] == []


def test_it_may_find_pods_where_they_are_watched_and_nothing_else() -> None:
    def granted(*settings: str) -> set[tuple[str, str, str]]:
        grants = chart.grants(rendered(*settings))
        return {(one.scope, one.resource, one.verb) for one in grants if one.subject.endswith("ryzanstein-prometheus")}

    verbs = ("list", "watch")
    assert granted('watchNamespaces=["a","b"]') == {
        (place, "pods", verb) for place in ("a", "b", "ryzanstein") for verb in verbs
    }
    assert granted("clusterWide=true") == {("*", "pods", verb) for verb in verbs}
    assert granted("prometheus.install=false") == set()


def test_a_changed_rule_or_setting_is_a_new_pod() -> None:
    def checksum(*settings: str) -> str:
        pod = chart.one(rendered(*settings), "Deployment", "ryzanstein-prometheus")["spec"]["template"]
        return str(pod["metadata"]["annotations"]["checksum/config"])

    sums = [checksum(), checksum("prometheus.scrapeIntervalSeconds=7"), checksum('prometheus.retention="7d"')]
    assert sums[0] != sums[1]
    assert sums[0] == sums[2], "the Deployment itself says that"
    assert checksum('monitoring.runbookBaseUrl="https://git.example"') != sums[0]


def test_its_data_fit_into_the_room_that_it_has() -> None:
    pod = chart.one(rendered(), "Deployment", "ryzanstein-prometheus")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (data,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "data"]
    assert "--storage.tsdb.retention.size=1GB" in container["args"]
    assert (data["sizeLimit"], container["resources"]["limits"]["ephemeral-storage"]) == ("2Gi", "3Gi")
    assert not [word for word in container["args"] if "enable-lifecycle" in word or "enable-admin" in word]


REFUSALS: list[tuple[list[str], str]] = [
    (['prometheus.url="prometheus:9090"'], "prometheus.url must be an http:// or https:// URL"),
    (['prometheus.url="http://me:secret@p:9090"'], "without a query or a user"),
    (['prometheus.url="http://p:9090/api/v1"'], "leave out the /api/v1 at its end"),
    (['prometheus.bearerTokenSecret.name="t"'], "so it needs prometheus.url"),
    (['prometheus.caSecret.name="ca"', 'prometheus.url="http://p:9090"'], "starts with https://"),
    (
        ['networkPolicy.prometheusFrom=[{"podSelector":{}}]', "prometheus.install=false"],
        "networkPolicy.prometheusFrom is about the Prometheus that the chart brings",
    ),
    (
        ['networkPolicy.prometheusFrom=[{"podSelector":{}}]', "networkPolicy.enabled=false"],
        "networkPolicy.prometheusFrom has no effect",
    ),
    (["monitoring.podMonitors=true"], "which networkPolicy keeps out"),
    (
        ['prometheus.retentionSize="2GB"'],
        "prometheus.retentionSize is 2GB, which must be less than prometheus.storage, 2Gi",
    ),
    (
        ['prometheus.storage="1000M"'],
        "prometheus.retentionSize is 1GB, which must be less than prometheus.storage, 1000M",
    ),
    (["prometheus.storage=1073741824"], "must be less than prometheus.storage, 1073741824"),
    (
        ['prometheus.storage="3Gi"'],
        "prometheus.storage is 3Gi, which must be less than prometheus.resources.limits.ephemeral-storage, 3Gi",
    ),
    # As after helm upgrade --reuse-values over a release of an older chart.
    (["prometheus=null"], "missing property 'prometheus'"),
    (["monitoring=null"], "missing property 'monitoring'"),
    (["grafana=null"], "missing property 'grafana'"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_nonsense_is_refused_in_words(settings: list[str], words: str) -> None:
    with pytest.raises(chart.HelmError) as refusal:
        chart.render(*settings)
    assert words in refusal.value.words


@pytest.mark.parametrize(
    "settings",
    [
        ('prometheus.storage="10Gi"', 'prometheus.retentionSize="8GB"',
         'prometheus.resources.limits.ephemeral-storage="12Gi"'),
        ('prometheus.storage="1.5Gi"', 'prometheus.retentionSize="1500MB"'),
        ('prometheus.storage="1T"', 'prometheus.resources.limits.ephemeral-storage=null'),
        ('prometheus.url="http://p:9090"', 'prometheus.storage="1Mi"'),
    ],
)  # fmt: skip
def test_other_sizes_that_fit_into_one_another_are_taken(settings: tuple[str, ...]) -> None:
    assert chart.render(*settings)
