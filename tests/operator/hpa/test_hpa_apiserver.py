"""Kubernetes' own HorizontalPodAutoscaler controller sizes an InferenceService through its scale subresource.

Real: kube-apiserver, kube-controller-manager with its HPA controller, the operator as a process with its Role's rights.
Nodes and readiness are `fakekubelet`'s; the metric is a number that the test sets (`external_metrics`). KEDA makes an
HPA of each ScaledObject and writes 0 and 1 to the same subresource by itself, which is what is shown of it here.
"""

import contextlib
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from apiserver import OPERATOR, ApiServer
from external_metrics import ExternalMetric
from fakeapi import wait_until
from fakekubelet import fake_kubelet
from operator_process import OperatorProcess
from operator_rights import grant, grant_nodes, install_crd
from rules import ROOT, blocks
from ryzanstein_operator.cluster.resources import PODS, SERVICES

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

TEAM = "team"
SECONDS = 150.0
"""Of each wait: far more than it takes, for a machine that is busy."""
Manifest = dict[str, Any]
HPAS = f"/apis/autoscaling/v2/namespaces/{TEAM}/horizontalpodautoscalers"
AT_ONCE = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 900, "periodSeconds": 1}]}
FLAGS = (
    "--controllers=horizontal-pod-autoscaler-controller",  # beside those of apiserver.CONTROLLERS
    "--horizontal-pod-autoscaler-sync-period=500ms",
    "--kube-api-content-type=application/json",  # a custom resource, which the metric is here, has no protobuf
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A control plane with the HPA controller, nodes, and the operator at work in one namespace."""
    directory = tmp_path_factory.mktemp("hpa")
    started = ApiServer(directory)
    started.flags["kube-controller-manager"] = FLAGS
    with contextlib.ExitStack() as stack:
        stack.callback(started.stop)
        started.start()
        install_crd(started)
        started.request("POST", "/api/v1/namespaces", {"metadata": {"name": TEAM}})
        grant(started, TEAM)
        grant_nodes(started, taints=False)
        started.start_controllers()
        stack.enter_context(fake_kubelet(started, nodes=4, slots=20))
        environment = {
            "KUBECONFIG": str(started.kubeconfig(OPERATOR)),
            "RYZANSTEIN_NAMESPACE": TEAM,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_POD_NAME": "one",
        }
        operator = OperatorProcess(environment, directory / "operator.log")
        stack.callback(operator.kill)
        wait_until(lambda: operator.leads, SECONDS, "the operator's lead")
        yield started


@pytest.fixture(scope="module")
def metric(server: ApiServer) -> ExternalMetric:
    return ExternalMetric(server, TEAM, "waiting-requests")


def make(server: ApiServer, name: str, **spec: object) -> None:
    body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}}
    server.request("POST", SERVICES.path(TEAM), body | {"spec": {"model": {"uri": "demo://"}} | spec})


def autoscale(server: ApiServer, name: str, metric: ExternalMetric, target: dict[str, str], most: int = 8) -> None:
    """An HPA as a user writes it, or KEDA."""
    spec = {
        "scaleTargetRef": {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "name": name},
        "minReplicas": 1,
        "maxReplicas": most,
        "metrics": [metric.source(name, target)],
        "behavior": {"scaleUp": AT_ONCE, "scaleDown": AT_ONCE},
    }
    server.request("POST", HPAS, {"metadata": {"name": name}, "spec": spec})


def scale(server: ApiServer, name: str) -> Manifest:
    """What an autoscaler sees."""
    seen: Manifest = server.get(f"{SERVICES.path(TEAM, name)}/scale")
    return seen


def write_scale(server: ApiServer, name: str, replicas: int) -> None:
    """What KEDA does to wake and to idle: the Scale that it has read, with another number. Whatever its version: the
    operator may write the status in between, at which KEDA would try again."""
    body = scale(server, name)
    body["spec"]["replicas"] = replicas
    del body["metadata"]["resourceVersion"]
    server.request("PUT", f"{SERVICES.path(TEAM, name)}/scale", body)


def pods(server: ApiServer, selector: str) -> list[Manifest]:
    found = server.get(f"{PODS.path(TEAM)}?labelSelector={selector.replace('=', '%3D').replace(',', '%2C')}")
    return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]


def ready(server: ApiServer, name: str) -> int:
    return int(server.get(SERVICES.path(TEAM, name)).get("status", {}).get("readyReplicas", 0))


def hpa_condition(server: ApiServer, name: str, kind: str) -> Manifest:
    conditions = server.get(f"{HPAS}/{name}").get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def rescales(server: ApiServer, name: str) -> list[str]:
    """What the HPA has said of its changes."""
    found = server.get(f"/api/v1/namespaces/{TEAM}/events")["items"]
    of_it = [one for one in found if one["involvedObject"]["name"] == name and one["reason"] == "SuccessfulRescale"]
    return [one["message"] for one in of_it]


def follows(server: ApiServer, name: str, replicas: int) -> bool:
    """Whether spec, pods and status have come to this size."""
    seen = scale(server, name)
    sizes = (seen["spec"].get("replicas", 0), seen["status"]["replicas"], ready(server, name))
    return sizes == (replicas,) * 3


def test_an_hpa_makes_it_grow_and_shrink_and_the_operator_follows(server: ApiServer, metric: ExternalMetric) -> None:
    make(server, "plain")
    wait_until(lambda: follows(server, "plain", 1), SECONDS, "the first replica")
    metric.set("plain", 6)
    autoscale(server, "plain", metric, {"type": "AverageValue", "averageValue": "2"})
    wait_until(lambda: follows(server, "plain", 3), SECONDS, "three replicas for six requests")
    wait_until(lambda: hpa_condition(server, "plain", "ScalingActive").get("status") == "True", SECONDS, "its word")
    assert len(pods(server, scale(server, "plain")["status"]["selector"])) == 3
    metric.set("plain", 100)
    wait_until(lambda: follows(server, "plain", 8), SECONDS, "no more than its maximum")
    metric.set("plain", 3)
    wait_until(lambda: follows(server, "plain", 2), SECONDS, "two replicas for three requests")
    owners = {
        entry["manager"]
        for entry in server.get(SERVICES.path(TEAM, "plain"))["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
    assert owners == {"kube-controller-manager"}, "the size is the autoscaler's alone"


def test_the_hpa_of_the_page_is_taken(server: ApiServer) -> None:
    """Its name is the page's, so that no other test may make one that is called `chat`."""
    (written,) = (
        manifest
        for language, lines in blocks(ROOT / "docs" / "autoscaling-with-hpa-keda.md")
        if language == "yaml" and (manifest := yaml.safe_load("\n".join(lines)))["kind"] == "HorizontalPodAutoscaler"
    )
    taken = server.request("POST", f"{HPAS}?dryRun=All&fieldValidation=Strict", written)
    assert taken["spec"]["scaleTargetRef"] == {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "name": "chat",
    }


def test_an_hpa_counts_groups_of_pods_not_pods(server: ApiServer, metric: ExternalMetric) -> None:
    """Its rule for a Value is: ready pods that the selector finds, times how far the metric is off. Two groups of two
    pods at one and a half times the target are to become three groups; by all pods it would be six."""
    make(server, "group", replicas=2, parallelism={"tensor": 2, "nodes": 2})
    wait_until(lambda: follows(server, "group", 2), SECONDS, "two groups")
    assert len(pods(server, scale(server, "group")["status"]["selector"])) == 2
    assert len(pods(server, "ryzanstein.dev/inference-service=group")) == 4
    metric.set("group", 150)
    # Far above three: should the machine be slow to set the metric back, it asks for more and is not cut.
    autoscale(server, "group", metric, {"type": "Value", "value": "100"}, most=1000)
    wait_until(lambda: rescales(server, "group"), SECONDS, "the third group asked for")
    metric.set("group", 100)
    assert rescales(server, "group")[0].startswith("New size: 3;")
    wait_until(lambda: hpa_condition(server, "group", "ScalingLimited"), SECONDS, "the HPA's status, after its event")
    wanted = hpa_condition(server, "group", "ScalingLimited")
    assert (wanted["status"], wanted["reason"]) == ("False", "DesiredWithinRange"), (
        "it was to be three, not cut to three"
    )
    wait_until(lambda: follows(server, "group", scale(server, "group")["spec"]["replicas"]), SECONDS, "the groups")


def resting(server: ApiServer, name: str) -> bool:
    return bool(hpa_condition(server, name, "ScalingActive").get("reason") == "ScalingDisabled")


def test_keda_may_idle_it_and_wake_it_and_the_hpa_rests_meanwhile(server: ApiServer, metric: ExternalMetric) -> None:
    make(server, "keda")
    metric.set("keda", 2)
    autoscale(server, "keda", metric, {"type": "AverageValue", "averageValue": "1"})
    wait_until(lambda: follows(server, "keda", 2), SECONDS, "the HPA's size")
    write_scale(server, "keda", 0)
    wait_until(lambda: follows(server, "keda", 0), SECONDS, "nothing left")
    wait_until(lambda: resting(server, "keda"), SECONDS, "an HPA that rests")
    write_scale(server, "keda", 1)
    wait_until(lambda: follows(server, "keda", 2), SECONDS, "the HPA at work again")


def test_beside_spec_autoscaling_another_autoscaler_is_refused_with_a_sentence(
    server: ApiServer, metric: ExternalMetric
) -> None:
    sentence = "leave it out where autoscaling is given: that chooses the number"
    targets = [{"metric": "WaitingRequests", "value": 4}]
    make(server, "own", autoscaling={"minReplicas": 1, "maxReplicas": 4, "targets": targets})
    wait_until(lambda: follows(server, "own", 1), SECONDS, "the first replica")
    with pytest.raises(urllib.error.HTTPError) as refused:
        write_scale(server, "own", 3)
    with refused.value as answer:
        assert answer.code == 422
        assert sentence in answer.read().decode()
    write_scale(server, "own", 1)
    metric.set("own", 9)
    autoscale(server, "own", metric, {"type": "AverageValue", "averageValue": "1"})
    able = "AbleToScale"
    wait_until(lambda: sentence in hpa_condition(server, "own", able).get("message", ""), SECONDS, "the sentence")
    assert hpa_condition(server, "own", able)["status"] == "False"
    assert follows(server, "own", 1)
