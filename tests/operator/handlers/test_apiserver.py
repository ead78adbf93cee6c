"""The operator, a process with the rights of its Role, against a real etcd, kube-apiserver and controller manager."""

import contextlib
import os
import random
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apiserver import ADMIN, OPERATOR, ApiServer, running
from fakeapi import wait_until
from operator_process import OperatorProcess
from operator_rights import grant, install_crd
from ryzanstein_operator.cluster import lease
from ryzanstein_operator.cluster.resources import CHILDREN, LEASES, SERVICES
from ryzanstein_operator.desired import route_table
from ryzanstein_operator.desired.gateway import routes_config_map
from ryzanstein_operator.desired.names import CHILD_KINDS
from ryzanstein_operator.handlers import run
from ryzanstein_operator.settings import Settings
from tcpproxy import TcpProxy

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

RELEASE, TEAM, LEASE = "release", "team", "ryzanstein-operator"
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A control plane with the CRD, two namespaces, and the operator's Role in each."""
    with running(tmp_path_factory.mktemp("apiserver")) as started:
        install_crd(started)
        for namespace in (RELEASE, TEAM):
            started.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            grant(started, namespace, release_only=namespace == RELEASE)
        started.start_controllers()
        yield started


@pytest.fixture
def start(server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Starts operators by pod name; ends what is left and clears the namespace afterwards."""
    started: list[OperatorProcess] = []

    def start_one(pod_name: str = "one", kubeconfig: Path | None = None) -> OperatorProcess:
        environment = {
            "KUBECONFIG": str(kubeconfig or server.kubeconfig(OPERATOR)),
            "RYZANSTEIN_NAMESPACE": RELEASE,
            "RYZANSTEIN_WATCH_NAMESPACES": TEAM,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_POD_NAME": pod_name,
        }
        started.append(OperatorProcess(environment, tmp_path / f"{pod_name}.log"))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
    for service in server.get(SERVICES.path(TEAM))["items"]:
        server.request("DELETE", SERVICES.path(TEAM, service["metadata"]["name"]))
    with contextlib.suppress(urllib.error.HTTPError):
        server.request("DELETE", LEASES.path(RELEASE, LEASE))
    wait_until(lambda: not children(server), 60, "the garbage collection")


def make(server: ApiServer, name: str = "chat", **spec: object) -> Manifest:
    body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}}
    made: Manifest = server.request("POST", SERVICES.path(TEAM), body | {"spec": {"model": {"uri": "demo://"}} | spec})
    return made


def children(server: ApiServer, name: str = "") -> list[Manifest]:
    label = "ryzanstein.dev/inference-service" + (f"%3D{name}" if name else "")
    kinds = [server.get(f"{resource.path(TEAM)}?labelSelector={label}") for resource in CHILDREN]
    return [child for kind in kinds for child in kind["items"]]


def whole(server: ApiServer, name: str = "chat") -> bool:
    service = server.get(SERVICES.path(TEAM, name))
    return len(children(server, name)) == len(CHILD_KINDS) and "conditions" in service.get("status", {})


def image(server: ApiServer) -> str:
    deployment = server.get("/apis/apps/v1/namespaces/team/deployments/chat")
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def carried_out(server: ApiServer) -> bool:
    """Whether Kubernetes' own controllers have done their part for `chat`, which the operator tells of."""
    deployment = server.get("/apis/apps/v1/namespaces/team/deployments/chat")
    slices = server.get("/apis/discovery.k8s.io/v1/namespaces/team/endpointslices")["items"]
    pods = server.get("/api/v1/namespaces/team/pods")["items"]
    seen = deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"]
    return seen and len(pods) == deployment["status"].get("replicas") == deployment["spec"]["replicas"] and bool(slices)


def test_a_service_gets_owned_children_and_then_nothing_more_is_written(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    operator = start()
    uid = make(server)["metadata"]["uid"]
    wait_until(lambda: whole(server), 60, "the children")
    for child in children(server):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
        assert next(entry["manager"] for entry in child["metadata"]["managedFields"]) == "ryzanstein-operator"
    wait_until(lambda: carried_out(server), 60, "the controllers' part")
    written = operator.rest()
    time.sleep(10)
    assert operator.writes == written
    # Another life of the operator finds all as it should be, defaults of the API server included.
    assert operator.end()[0] == 0
    second = start("two")
    wait_until(lambda: second.leads, 60, "the second life")
    assert second.rest() == 0
    service = server.get(SERVICES.path(TEAM, "chat"))
    assert "finalizers" not in service["metadata"]
    assert "annotations" not in service["metadata"]
    assert not [record for record in operator.records() if record["level"] == "error"]


def test_a_hand_edited_child_is_put_back_within_ten_seconds(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    operator = start()
    make(server)
    wait_until(lambda: whole(server), 60, "the children")
    operator.rest()
    path = "/apis/apps/v1/namespaces/team/deployments/chat"
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil"}]
    server.request("PATCH", path, patch, Content_Type="application/json-patch+json")
    server.request("DELETE", "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/chat")
    wait_until(lambda: image(server) != "evil" and whole(server), 10, "the repair")


def test_a_deleted_service_leaves_nothing_behind(server: ApiServer, start: Callable[..., OperatorProcess]) -> None:
    operator = start()
    make(server)
    wait_until(lambda: whole(server), 60, "the children")
    operator.rest()
    server.request("DELETE", SERVICES.path(TEAM, "chat"))
    wait_until(lambda: not children(server), 60, "the garbage collection")
    operator.rest()
    assert not children(server)


def test_an_operator_that_is_killed_again_and_again_converges(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    make(server)
    chance = random.Random(7)
    for _ in range(5):
        operator = start()
        wait_until(lambda o=operator: o.writes > 0 or whole(server), 60, "a first write")  # type: ignore[misc]  # bound
        time.sleep(chance.uniform(0, 0.1))
        operator.end(signal.SIGKILL)
    last = start()
    wait_until(lambda: whole(server), 60, "the children")
    last.rest()
    assert len(children(server)) == len(CHILD_KINDS)


def test_only_the_leader_writes_and_a_standby_follows_within_three_seconds(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    one, two = start("one"), start("two")
    wait_until(lambda: one.leads or two.leads, 60, "a leader")
    leader, standby = (one, two) if one.leads else (two, one)
    wait_until(lambda: "standby" in standby.probe("/health/ready")[1], 60, "a standby")
    make(server)
    wait_until(lambda: whole(server), 60, "the children")
    assert (leader.writes > 0, standby.writes) == (True, 0)
    status, seconds = leader.end()
    # What it waits for itself makes less than five seconds, and the next look of the standby comes within three; the
    # rest is the machine's. A Lease that was not given back would take LEASE_SECONDS.
    assert (status, seconds < 10) == (0, True)
    assert lease.RELEASE_SECONDS + run.STOP_SECONDS <= 5
    assert lease.RETRY_SECONDS * 1.1 < 3
    wait_until(lambda: standby.leads, 10, "the standby's lead")
    patch = {"spec": {"replicas": 2}}
    server.request("PATCH", SERVICES.path(TEAM, "chat"), patch, Content_Type="application/merge-patch+json")
    wait_until(lambda: standby.writes > 0, 30, "the standby's first write")


def test_a_frozen_leader_that_wakes_writes_nothing_and_ends(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    frozen = start("one")
    wait_until(lambda: frozen.leads, 60, "the lead")
    os.kill(frozen.process.pid, signal.SIGSTOP)
    other = start("two")
    wait_until(lambda: other.leads, 60, "the other's lead")
    os.kill(other.process.pid, signal.SIGSTOP)  # so that whatever is written is written by the one that wakes
    make(server)
    os.kill(frozen.process.pid, signal.SIGCONT)
    assert frozen.process.wait(30) == 1
    assert "held by two" in frozen.log.read_text()
    assert "Traceback" not in frozen.log.read_text()
    assert children(server) == []
    assert "status" not in server.get(SERVICES.path(TEAM, "chat"))
    os.kill(other.process.pid, signal.SIGCONT)
    wait_until(lambda: whole(server), 60, "the children")


def test_an_api_server_that_is_away_for_twenty_seconds_is_waited_for(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    operator = start()
    make(server)
    wait_until(lambda: whole(server), 60, "the children")
    operator.rest()
    server.stop_api()
    time.sleep(20)
    assert operator.probe("/health/live")[0] == 200
    server.start_api()
    server.start_controllers()
    make(server, "second")
    wait_until(lambda: whole(server, "second"), 60, "the second service's children")
    assert operator.process.poll() is None


def test_a_connection_that_has_silently_died_is_replaced(
    server: ApiServer, start: Callable[..., OperatorProcess]
) -> None:
    with TcpProxy(server.port) as proxy:
        operator = start(kubeconfig=server.kubeconfig(OPERATOR, server=f"https://127.0.0.1:{proxy.port}"))
        wait_until(lambda: operator.leads, 60, "the lead")
        proxy.swallow()
        make(server)
        # The watch's own limit for silence is 70 s.
        wait_until(lambda: whole(server), 120, "the children")
        assert operator.process.poll() is None


def test_a_route_table_that_grows_too_long_for_text_leaves_no_text_behind(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"model": "chat", "namespace": TEAM, "service": "chat-workers"}]
    settings = Settings(namespace=RELEASE, worker_image="w")
    for most in (route_table.PLAIN_BYTES, 0, route_table.PLAIN_BYTES):
        monkeypatch.setattr(route_table, "PLAIN_BYTES", most)
        path = f"/api/v1/namespaces/{RELEASE}/configmaps/long"
        table = routes_config_map(rows, settings)
        live = server.apply(path, table | {"metadata": table["metadata"] | {"name": "long"}}, manager="ryzanstein")
        assert ("data" in live, "binaryData" in live) == (most > 0, most == 0)
        assert route_table.unpack(live) == rows


def test_the_operator_waits_for_its_crd(tmp_path: Path) -> None:
    with running(tmp_path / "bare") as bare:
        environment = {
            "KUBECONFIG": str(bare.kubeconfig(ADMIN)),
            "RYZANSTEIN_NAMESPACE": "default",
            "RYZANSTEIN_WORKER_IMAGE": "w",
            "RYZANSTEIN_POD_NAME": "one",
        }
        operator = OperatorProcess(environment, tmp_path / "log")
        try:
            wait_until(lambda: "install the CRDs" in operator.probe("/health/ready")[1], 60, "the reason")
            assert operator.probe("/health/live")[0] == 200
            install_crd(bare)
            wait_until(lambda: operator.leads, 60, "the lead")
            assert "install the CRDs" in operator.log.read_text()
        finally:
            operator.kill()
