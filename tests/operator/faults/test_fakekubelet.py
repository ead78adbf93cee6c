"""The fake kubelet keeps its promises towards a real API server: what the other tests of this folder stand on."""

from collections.abc import Iterator
from typing import Any

import pytest

from apiserver import ApiServer, running
from fakeapi import wait_until
from fakekubelet import FakeKubelet, fake_kubelet

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(400)]
Manifest = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("kubelet"), controllers=True) as started:
        yield started


@pytest.fixture
def kubelet(server: ApiServer) -> Iterator[FakeKubelet]:
    with fake_kubelet(server, nodes=2, slots=3, allocatable={"nvidia.com/gpu": 2}) as started:
        yield started
        for kind in ("deployments", "statefulsets"):
            server.request("DELETE", f"/apis/apps/v1/namespaces/default/{kind}")
        wait_until(lambda: not pods(server), SECONDS, "the end of all pods")


def workload(server: ApiServer, kind: str, replicas: int, **spec: object) -> None:
    labels = {"app": "x"}
    container = {"name": "c", "image": "i"} | {"resources": spec.pop("resources", {})}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], **spec}}
    whole = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    body = {"metadata": {"name": "x"}, "spec": whole | ({"serviceName": "x"} if kind == "statefulsets" else {})}
    server.request("POST", f"/apis/apps/v1/namespaces/default/{kind}", body)


def pods(server: ApiServer) -> list[Manifest]:
    items: list[Manifest] = server.get(PODS)["items"]
    return items


def ready(server: ApiServer) -> list[Manifest]:
    return [pod for pod in pods(server) if _said(pod, "Ready") == "True"]


def _said(pod: Manifest, kind: str) -> str:
    return next((str(c["status"]) for c in pod["status"].get("conditions", ()) if c["type"] == kind), "")


def _refusal(pod: Manifest) -> str:
    conditions = pod["status"].get("conditions", ())
    return next((str(c["message"]) for c in conditions if (c["type"], c["status"]) == ("PodScheduled", "False")), "")


def test_pods_are_spread_run_and_end(server: ApiServer, kubelet: FakeKubelet) -> None:
    workload(server, "deployments", 4)
    wait_until(lambda: len(ready(server)) == 4, SECONDS, "four ready pods")
    assert sorted(pod["spec"]["nodeName"] for pod in ready(server)) == ["node-1", "node-1", "node-2", "node-2"]
    assert len({pod["status"]["podIP"] for pod in ready(server)}) == 4
    server.request("PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": 1}}, Content_Type=MERGE)
    wait_until(lambda: len(pods(server)) == 1, SECONDS, "three pods less")


DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/x"
MERGE = "application/merge-patch+json"


def test_what_does_not_fit_says_so_and_comes_when_there_is_room(server: ApiServer, kubelet: FakeKubelet) -> None:
    workload(server, "deployments", 3, resources={"limits": {"nvidia.com/gpu": "2"}})
    wait_until(lambda: len(ready(server)) == 2, SECONDS, "two ready pods")
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    wait_until(lambda: [_refusal(pod) for pod in pods(server) if _refusal(pod)] == [words], SECONDS, "a refusal")
    server.request("PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": 2}}, Content_Type=MERGE)
    wait_until(lambda: len(pods(server)) == 2 and len(ready(server)) == 2, SECONDS, "two pods")


def test_a_statefulset_comes_up_and_a_killed_container_is_started_again(
    server: ApiServer, kubelet: FakeKubelet
) -> None:
    workload(server, "statefulsets", 2)
    wait_until(lambda: len(ready(server)) == 2, SECONDS, "two ready pods")
    assert {pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] for pod in pods(server)} == {"0", "1"}
    kubelet.kill_pod("default", "x-1", exit_code=70)
    status = server.get(f"{PODS}/x-1")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 70)


def test_pods_of_a_failed_node_stay_until_it_is_back(server: ApiServer, kubelet: FakeKubelet) -> None:
    workload(server, "deployments", 2)
    wait_until(lambda: len(ready(server)) == 2, SECONDS, "two ready pods")
    kubelet.fail_node("node-1")
    (lost,) = [pod for pod in pods(server) if pod["spec"]["nodeName"] == "node-1"]
    assert _said(lost, "Ready") == "False"
    taint = {"key": "test/lost", "effect": "NoSchedule"}
    server.request("PATCH", "/api/v1/nodes/node-1", {"spec": {"taints": [taint]}}, Content_Type=MERGE)
    wait_until(lambda: kubelet.has_taint("node-1", "test/lost"), SECONDS, "the scheduler's watch")
    server.request("DELETE", f"{PODS}/{lost['metadata']['name']}")
    wait_until(lambda: len(ready(server)) == 2, SECONDS, "the replacement")
    assert {pod["spec"]["nodeName"] for pod in ready(server)} == {"node-2"}
    assert len(pods(server)) == 3
    kubelet.restore_node("node-1")
    wait_until(lambda: len(pods(server)) == 2, SECONDS, "the end of the lost pod")
