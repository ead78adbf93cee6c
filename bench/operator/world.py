"""A control plane of its own with nodes that run nothing, and the objects that are made there. Measures nothing."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from apiserver import OPERATOR, ApiServer
from fakekubelet import fake_kubelet
from operator_process import OperatorProcess
from operator_rights import grant, install_crd
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import parse
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.desired.workers import deployment
from ryzanstein_operator.settings import Settings

Manifest = dict[str, Any]
RELEASE, TEAM = "release", "team"
REPLICAS: Final = 4
SLOTS: Final = 110
DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{TEAM}/deployments"
_ENVIRONMENT: Final = {
    "RYZANSTEIN_NAMESPACE": RELEASE,
    "RYZANSTEIN_WATCH_NAMESPACES": TEAM,
    "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
    "RYZANSTEIN_LOG_LEVEL": "warning",
}


@contextlib.contextmanager
def control_plane(directory: Path, services: int, qps: int) -> Iterator[ApiServer]:
    """etcd, kube-apiserver, kube-controller-manager (`qps` calls a second for each of its controllers), a fake kubelet
    with room for every pod, the CRD, two namespaces and the operator's rights in them."""
    server = ApiServer(directory)
    server.flags["kube-controller-manager"] = (f"--kube-api-qps={qps}", f"--kube-api-burst={qps}")
    try:
        server.start()
        _install(server)
        server.start_controllers()
        nodes = services * (REPLICAS + 1) // SLOTS + 1
        with fake_kubelet(server, nodes=nodes, slots=SLOTS):
            yield server
    finally:
        server.stop()


def _install(server: ApiServer) -> None:
    install_crd(server)
    for namespace in (RELEASE, TEAM):
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        grant(server, namespace, release_only=namespace == RELEASE)


@contextlib.contextmanager
def operator(server: ApiServer, name: str, resync_seconds: float | None = None) -> Iterator[OperatorProcess]:
    """The operator as a process with the rights of its Role, once it leads; ended with the block.

    resync_seconds: instead of its ten minutes.
    """
    environment = _ENVIRONMENT | {"KUBECONFIG": str(server.kubeconfig(OPERATOR)), "RYZANSTEIN_POD_NAME": name}
    if resync_seconds is not None:
        environment["BENCH_RESYNC_SECONDS"] = str(resync_seconds)
    process = OperatorProcess(environment, server.directory / f"{name}.log", module="bench.operator.resyncing")
    try:
        yield process
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):  # a busy machine; what was measured is measured
            process.end()
        process.kill()


def service(index: int) -> Manifest:
    """One InferenceService."""
    body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": f"service-{index:04}"}}
    return body | {"spec": {"model": {"uri": "demo://"}, "replicas": REPLICAS}}


def bare_deployment(index: int) -> Manifest:
    """The Deployment that the operator would make for `service(index)`, of nobody: no owner, no label of ours."""
    live = service(index)
    live["metadata"] |= {"namespace": TEAM}
    parsed = parse(InferenceService, live)
    settings = Settings(RELEASE, _ENVIRONMENT["RYZANSTEIN_WORKER_IMAGE"])
    made = deployment(parsed, settings, parsed.spec.replicas)
    name = live["metadata"]["name"]
    made["metadata"] = {"name": name}
    made["spec"]["selector"] = {"matchLabels": {"app": name}}
    made["spec"]["template"]["metadata"] = {"labels": {"app": name}}
    for constraint in made["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
        constraint["labelSelector"] = {"matchLabels": {"app": name}}
    return made
