"""`kubectl ryzanstein` with the rights that its page lists, on a real API server with an operator at work."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver import ADMIN, OPERATOR, ApiServer, binaries, running
from fakeapi import wait_until
from fakekubelet import fake_kubelet
from healthpages import HealthPages, health_pages
from interrupts import hear
from kubeletside import KubeletSide, kubelet_side
from operator_process import OperatorProcess
from ryzanstein_operator.api.crd import render
from ryzanstein_operator.cluster.resources import PODS, SERVICES
from ryzanstein_worker import contract

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

RELEASE, TEAM, FOREIGN = "release", "team", "foreign"
ROOT = Path(__file__).resolve().parents[2]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ENVIRONMENT = {
    "RYZANSTEIN_NAMESPACE": RELEASE,
    "RYZANSTEIN_WATCH_NAMESPACES": TEAM,
    "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
    "RYZANSTEIN_GATEWAY_URL": f"http://ryzanstein-gateway.{RELEASE}.svc",
}
Manifest = dict[str, Any]


class Cluster:
    """The API server with an operator, two services (`chat` of two pods, `big` of one group), and a user with the
    documented rights."""

    def __init__(self, server: ApiServer, side: KubeletSide, directory: Path) -> None:
        self.server, self.side = server, side
        self.kubeconfig = side.kubeconfig(directory / "user.kubeconfig", f"{OPERATOR}-token", TEAM)

    def pods(self) -> list[Manifest]:
        """The workers of the service `chat` that stay."""
        found = self.server.get(f"{PODS.path(TEAM)}?labelSelector={contract.LABEL_SERVICE}%3Dchat")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> int:
        return sum(
            {"type": "Ready", "status": "True"}.items() <= condition.items()
            for pod in self.pods()
            for condition in pod["status"].get("conditions", ())
        )

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{binaries()}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *words: str, status: int = 0, text: str = "") -> str:
        command = ["kubectl", "ryzanstein", *words]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, env=self.environment(), input=text, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status in (0, 1) and not done.stderr else done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("apiserver")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(directory, controllers=True))
        install(server)
        side = stack.enter_context(kubelet_side(server.url, directory / "ca.crt", rights=True))
        made = Cluster(server, side, directory)
        operator = OperatorProcess({"KUBECONFIG": str(server.kubeconfig(ADMIN)), **ENVIRONMENT}, directory / "operator")
        stack.callback(operator.kill)
        stack.enter_context(fake_kubelet(server, nodes=3, ends=lambda _: 1.0))
        make_service(server, "chat", replicas=2)
        make_service(server, "big", parallelism={"tensor": 4, "nodes": 2})
        wait_until(lambda: made.ready() == 2, 90, "two ready replicas")
        wait_until(lambda: _settled(server, "chat") and _settled(server, "big"), 60, "both to be as they should be")
        yield made


def install(server: ApiServer) -> None:
    crd = yaml.safe_load(render())
    server.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
    for namespace in (RELEASE, TEAM, FOREIGN):
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    user_role, release_role, cluster_role = documented_roles()
    bind(server, f"{RBAC}/namespaces/{TEAM}", user_role)
    bind(server, f"{RBAC}/namespaces/{RELEASE}", release_role)
    bind(server, RBAC, cluster_role)
    server.request("POST", f"/apis/apps/v1/namespaces/{RELEASE}/deployments", operator_deployment())
    wait_until(lambda: server.get(SERVICES.path(TEAM)), 60, "the CRD")


def documented_roles() -> list[Manifest]:
    """The Roles of docs/kubectl.md, as they stand there."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubectl.md").read_text(), re.DOTALL)
    return list(yaml.safe_load_all(block))


def bind(server: ApiServer, path: str, role: Manifest) -> None:
    kind, name = role["kind"], role["metadata"]["name"]
    plural = {"Role": "roles", "ClusterRole": "clusterroles"}[kind]
    server.request("POST", f"{path}/{plural}", role)
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    binding = {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}
    server.request("POST", f"{path}/{plural[:-1]}bindings", binding)


def operator_deployment() -> Manifest:
    """What the chart would have installed, as far as the plugin reads it; the process itself runs beside it."""
    labels = {"app.kubernetes.io/name": "ryzanstein", "app.kubernetes.io/component": "operator"}
    env = [{"name": name, "value": value} for name, value in ENVIRONMENT.items()]
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "operator", "image": "none", "env": env}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    return {"metadata": {"name": "ryzanstein-operator", "labels": labels}, "spec": spec}


def make_service(server: ApiServer, name: str, **spec: Any) -> None:
    head = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}}
    server.request("POST", SERVICES.path(TEAM), head | {"spec": {"model": {"uri": "demo://"}, **spec}})


def _settled(server: ApiServer, name: str) -> bool:
    status = server.get(SERVICES.path(TEAM, name)).get("status", {})
    conditions = {item["type"]: item["status"] for item in status.get("conditions", ())}
    return conditions.get("Ready") == "True" and conditions.get("Progressing") == "False"


@pytest.fixture
def pages(cluster: Cluster) -> Iterator[dict[str, HealthPages]]:
    """Pages behind each pod there is, by its name."""
    with contextlib.ExitStack() as stack:
        made = {pod["metadata"]["name"]: stack.enter_context(health_pages()) for pod in cluster.pods()}
        cluster.side.pages |= {(TEAM, name): one.port for name, one in made.items()}
        yield made
        cluster.side.pages.clear()


def test_kubectl_finds_the_plugin_and_the_documented_rights_suffice_for_the_whole_tree(
    cluster: Cluster, pages: dict[str, HealthPages]
) -> None:
    for one in pages.values():
        one.engine.running = 3
    big, service = json.loads(cluster.kubectl("status", "-o", "json"))["services"]
    assert (service["ready"], service["wanted"], service["concerns"]) == (2, 2, [])
    (revision,) = service["revisions"]
    assert {replica["name"] for replica in revision["replicas"]} == set(pages)
    assert [replica["load"]["running"] for replica in revision["replicas"]] == [3, 3]
    assert {replica["pods"][0]["node"] for replica in revision["replicas"]} <= {"node-1", "node-2", "node-3"}
    (group,) = [replica for revision in big["revisions"] for replica in revision["replicas"]]
    assert (big["ready"], group["group"], group["ready"]) == (1, True, True)
    assert [pod["name"] for pod in group["pods"]] == [f"{group['name']}-0", f"{group['name']}-1"]
    text = cluster.kubectl("status", "chat")
    assert "2/2 ready" in text
    assert "not shown" not in text


def test_without_rights_the_refusal_names_the_page(cluster: Cluster) -> None:
    words = cluster.kubectl("status", "-n", FOREIGN, status=1)
    assert "is forbidden" in words
    assert "docs/kubectl.md" in words


def test_what_the_operator_has_done_needs_no_change_and_a_files_change_is_shown(cluster: Cluster) -> None:
    for name in ("chat", "big"):
        assert cluster.kubectl("plan", name).splitlines()[-1] == "No change."
    manifest = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": "chat"}}
    manifest |= {"spec": {"model": {"uri": "demo://"}, "replicas": 2, "engine": {"maxNumSeqs": 4}}}
    found = json.loads(cluster.kubectl("plan", "-f", "-", "-o", "json", status=1, text=json.dumps(manifest)))
    (change,) = found["changes"]
    assert change["about"] == f"Deployment {TEAM}/chat"
    assert "every replica is exchanged" in change["why"]
    assert "+        - '4'" in change["diff"]


def test_logs_are_followed_until_ctrl_c(cluster: Cluster) -> None:
    first, second = (pod["metadata"]["name"] for pod in cluster.pods())
    cluster.side.log((TEAM, first), "one")
    cluster.side.log((TEAM, second), "two")
    command = ["kubectl-ryzanstein", "logs", "chat", "-f", "-o", "json"]
    process = subprocess.Popen(command, env=cluster.environment(), stdout=subprocess.PIPE, text=True, preexec_fn=hear)
    assert process.stdout is not None
    try:
        said = [json.loads(process.stdout.readline())["message"] for _ in range(2)]
        cluster.side.log((TEAM, first), "three")
        said.append(json.loads(process.stdout.readline())["message"])
        process.send_signal(signal.SIGINT)
        assert (said, process.wait(40)) == (["one", "two", "three"], 130)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_a_drained_node_holds_no_replica_and_one_is_ready_all_the_while(cluster: Cluster) -> None:
    node = cluster.pods()[0]["spec"]["nodeName"]
    stop, fewest = threading.Event(), [2]

    def watch() -> None:
        while not stop.wait(0.1):
            fewest.append(cluster.ready())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    try:
        words = cluster.kubectl("drain", f"node/{node}", "-n", TEAM, "--timeout", "80s")
    finally:
        stop.set()
        watcher.join()
    assert f"Node {node} is cordoned and holds no replica" in words, time.monotonic() - started
    assert min(fewest) >= 1
    assert cluster.ready() == 2
    assert node not in {pod["spec"].get("nodeName") for pod in cluster.pods()}
    assert cluster.server.get(f"/api/v1/nodes/{node}")["spec"]["unschedulable"] is True
