"""The chart on a real API server: it installs, upgrades and goes, and its rights and pods hold before the real judges.

Nothing runs here (no kubelet); admission, RBAC and storage are the real ones.
"""

import json
import subprocess
import urllib.error
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chart
import operated
from apiserver import ADMIN, ApiServer, running

pytestmark = [pytest.mark.helm, pytest.mark.apiserver, pytest.mark.timeout(chart.BUILD_SECONDS + 60)]

NAMESPACE = "ryzanstein"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:ryzanstein-operator"
GATEWAY = f"system:serviceaccount:{NAMESPACE}:ryzanstein-gateway"
PROMETHEUS = f"system:serviceaccount:{NAMESPACE}:ryzanstein-prometheus"
ROUTES = f"/api/v1/namespaces/{NAMESPACE}/configmaps"


class Release:
    """The chart, installed into a namespace that enforces `restricted`."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})

    def helm(self, *arguments: str) -> str:
        place = (f"--kubeconfig={self.server.kubeconfig(ADMIN)}", "--namespace", NAMESPACE)
        return chart.run_helm(*arguments, *place)

    def key(self) -> tuple[str, str]:
        """The raw key and the stored hash."""
        secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
        raw = self.server.get(f"{secrets}/ryzanstein-default-key")["data"]["key"]
        stored = self.server.get(f"{secrets}/ryzanstein-keyset-default")["data"]["default"]
        return b64decode(raw).decode(), b64decode(stored).decode()

    def may(self, user: str, verb: str, group: str, resource: str, name: str = "", namespace: str = NAMESPACE) -> bool:
        """The API server's own answer to whether `user` may."""
        plural, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource,
                      "name": name, "namespace": namespace}  # fmt: skip
        body = {"spec": {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes}}
        answer = self.server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    def status_as(self, user: str, method: str, path: str, body: object = None, **headers: str) -> int:
        """The HTTP status of a call made as `user`."""
        try:
            self.server.request(method, path, body, raw=False, Impersonate_User=user, **headers)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return refusal.code
        return 200


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with running(tmp_path_factory.mktemp("api")) as server:
        made = Release(server)
        made.helm("install", "ryzanstein", str(chart.CHART))
        yield made


def test_every_golden_grant_holds(release: Release) -> None:
    grants = chart.grants(chart.installed())
    users = {
        f"ServiceAccount:{NAMESPACE}/ryzanstein-{who}": user
        for who, user in (("operator", OPERATOR), ("gateway", GATEWAY), ("prometheus", PROMETHEUS))
    }
    refused = [g for g in grants if not release.may(users[g.subject], g.verb, g.group, g.resource, g.name, g.scope)]
    assert refused == []


@pytest.mark.parametrize("user", [OPERATOR, GATEWAY, PROMETHEUS])
@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace"),
    [
        ("get", "", "secrets", NAMESPACE),
        ("list", "", "secrets", NAMESPACE),
        ("create", "", "pods/exec", NAMESPACE),
        ("create", "", "pods", NAMESPACE),
        ("create", "", "serviceaccounts/token", NAMESPACE),
        ("escalate", "rbac.authorization.k8s.io", "roles", NAMESPACE),
        ("create", "rbac.authorization.k8s.io", "rolebindings", NAMESPACE),
        ("patch", "ryzanstein.dev", "inferenceservices", NAMESPACE),
        ("list", "", "configmaps", NAMESPACE),
        ("list", "apps", "deployments", "default"),
        ("patch", "", "nodes", ""),
        ("get", "", "nodes/proxy", ""),
    ],
)
def test_nothing_beyond_them_holds(
    release: Release, user: str, verb: str, group: str, resource: str, namespace: str
) -> None:
    assert not release.may(user, verb, group, resource, namespace=namespace)


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_the_operator_reads_nodes_and_nobody_else_does(release: Release, verb: str) -> None:
    assert release.may(OPERATOR, verb, "", "nodes")
    assert not release.may(GATEWAY, verb, "", "nodes")
    assert not release.may(PROMETHEUS, verb, "", "nodes")


def test_the_route_table_is_written_and_watched_by_its_name_alone(release: Release) -> None:
    table = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ryzanstein-routes"}, "data": {}}
    apply: dict[str, str] = {"Content_Type": "application/apply-patch+yaml"}
    query = "?fieldManager=test&force=true"
    assert release.status_as(OPERATOR, "PATCH", f"{ROUTES}/ryzanstein-routes{query}", table, **apply) == 200
    other = {**table, "metadata": {"name": "other"}}
    assert release.status_as(OPERATOR, "PATCH", f"{ROUTES}/other{query}", other, **apply) == 403
    for user in (OPERATOR, GATEWAY):
        assert release.status_as(user, "GET", f"{ROUTES}?fieldSelector=metadata.name%3Dryzanstein-routes") == 200
        assert release.status_as(user, "GET", ROUTES) == 403
    assert release.status_as(GATEWAY, "PATCH", f"{ROUTES}/ryzanstein-routes{query}", table, **apply) == 403


def pod_of(template: chart.Manifest) -> chart.Manifest:
    spec = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "candidate"}, "spec": spec}


def create_pod(release: Release, template: chart.Manifest) -> int:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict"
    return release.status_as(ADMIN, "POST", path, pod_of(template), Impersonate_Group="system:masters")


def templates() -> Iterator[tuple[str, chart.Manifest]]:
    for deployment in chart.of_kind(chart.installed(), "Deployment"):
        yield deployment["metadata"]["name"], deployment["spec"]["template"]
    for name, service in operated.samples().items():
        made = operated.pods_of(operated.children_of(service, chart.installed(), NAMESPACE))
        yield name, made["spec"]["template"]


def test_pod_security_admits_every_pod_of_ours_and_refuses_one_that_is_loosened(release: Release) -> None:
    assert {name: create_pod(release, template) for name, template in templates()} == {
        name: 200 for name, _ in templates()
    }
    loose: Any = json.loads(json.dumps(dict(templates())["demo.yaml"]))
    del loose["spec"]["containers"][0]["securityContext"]["capabilities"]
    assert create_pod(release, loose) == 403


@pytest.mark.parametrize("sample", sorted(path.name for path in chart.SAMPLES.glob("*.yaml")))
def test_samples_are_accepted(release: Release, sample: str, tmp_path: Path) -> None:
    command = ["kubectl", f"--kubeconfig={release.server.kubeconfig(ADMIN)}", "apply", "--dry-run=server"]
    command += [
        "--validate=strict",
        "--namespace",
        NAMESPACE,
        "--cache-dir",
        str(tmp_path),
        "-f",
        str(chart.SAMPLES / sample),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_upgrade_keeps_the_key_and_an_uninstall_keeps_the_definitions(release: Release) -> None:
    before = release.key()
    release.helm("upgrade", "ryzanstein", str(chart.CHART), "--set", "gateway.replicas=3")
    assert release.key() == before
    release.helm("uninstall", "ryzanstein")
    definitions = release.server.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    assert [definition["metadata"]["name"] for definition in definitions] == ["inferenceservices.ryzanstein.dev"]
    release.helm("install", "ryzanstein", str(chart.CHART))
    assert release.key() != before, "a new release has a key of its own"
