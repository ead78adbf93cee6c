"""What the chart brings along sees the system as it is: labels, dashboards, alerts, and the page of the gateway."""

import time

import httpx

import chaos
from chaos import clients
from cluster_view import ClusterView, Release
from panels import ask
from prometheus_server import Prometheus
from ryzanstein_worker import contract
from stories import Gateway, service, until

PROMETHEUS = "deployment/ryzanstein-prometheus"
PAGE_SECONDS = 60
SCRAPES_SECONDS = 75
"""Rates look back a minute, and a scrape is every five seconds."""
OWN_JOBS = (contract.JOB_OPERATOR, contract.JOB_GATEWAY, contract.JOB_WORKER)


def test_every_panel_has_data_under_load_and_no_alert_fires(
    cluster: ClusterView, release: Release, gateway: Gateway
) -> None:
    cluster.apply(
        service(
            "watched",
            autoscaling={"maxReplicas": 2, "targets": [{"metric": "WaitingRequests", "value": 50}]},
        )
    )
    cluster.wait_ready("watched", 300)
    answers = chaos.expected(gateway, "watched")
    with release.forwarded(PROMETHEUS, 9090) as url, clients(gateway, "watched", answers) as seen:
        prometheus = Prometheus(url)
        began = time.monotonic()
        worker = until(
            180, "the worker and all of ours are scraped", lambda: _series(prometheus, cluster.namespace), every=2
        )
        until(SCRAPES_SECONDS * 2, "a minute of samples", lambda: time.monotonic() - began > SCRAPES_SECONDS)
        of_service = {"namespace": cluster.namespace, "inference_service": "watched"}
        of_worker = {**of_service, "pod": worker["pod"]}
        asked = ask(prometheus, {"ryzanstein-service": of_service, "ryzanstein-worker": of_worker})
        _page_shows(gateway, "watched")
        firing = [one for one in prometheus.api("alerts")["alerts"] if one["state"] == "firing"]
        ours = [one["labels"]["alertname"] for one in firing if cluster.namespace in str(one["labels"])]
    chaos.REPORT.append(f"dashboards: {asked.answered} queries have data, {len(asked.findings)} may be without")
    assert not asked.missing, "\n".join(map(str, asked.missing))
    assert asked.answered > 50
    assert ours == [], firing
    assert seen.failures == []


def _series(prometheus: Prometheus, namespace: str) -> dict[str, str] | None:
    """The labels of the worker's series, those that the contract names, once every job has a pod that is up: after the
    stories before this one some have just come back."""
    query = f'{contract.NUM_REQUESTS_RUNNING}{{namespace="{namespace}"}}'
    found = prometheus.api("query", query=query)["result"]
    if not found:
        return None
    labels: dict[str, str] = found[0]["metric"]
    assert labels["job"] == contract.JOB_WORKER
    assert labels[contract.SERIES_SERVICE] == "watched"
    assert labels[contract.SERIES_POD].startswith("watched-")
    jobs = {one["metric"]["job"] for one in prometheus.api("query", query="up == 1")["result"]}
    return labels if set(OWN_JOBS) <= jobs else None


def _page_shows(gateway: Gateway, name: str) -> None:
    """The page itself is tested in a browser elsewhere; here it is fed by the real operator."""
    assert "<title>" in httpx.get(f"{gateway.url}/ui", follow_redirects=True, timeout=PAGE_SECONDS).text
    state = httpx.get(f"{gateway.url}/ui/state", headers=gateway.headers(), timeout=PAGE_SECONDS)
    assert state.status_code == 200, state.text
    assert name in state.text
    assert httpx.get(f"{gateway.url}/ui/state", timeout=PAGE_SECONDS).status_code == 401
