"""A node dies under a real API server: found by gateways' views and its kubelet's silence, long before Kubernetes.

The scheduler, the kubelets' reports and the pods are `fakekubelet`'s; a kubelet's door is a real HTTPS responder on
loopback, and views are posted in the gateway's own form.
"""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apiserver import OPERATOR, ApiServer, running
from fakeapi import wait_until
from fakekubelet import FakeKubelet, fake_kubelet
from kubelet_door import KubeletDoor
from operator_process import OperatorProcess
from operator_rights import grant, grant_nodes, install_crd
from ryzanstein_gateway.views import ReplicaView, ServiceView, State, View, encode
from ryzanstein_operator.cluster import probe
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.decide import failover, nodes
from ryzanstein_worker.contract import TAINT_UNHEALTHY, VIEWS_PATH

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

TEAM, KEY, NODES = "team", "a-shared-key", 3
GPU = "nvidia.com/gpu"
MERGE = "application/merge-patch+json"
PERSONS = {"key": "team/reserved", "value": "yes", "effect": "PreferNoSchedule"}
Manifest = dict[str, Any]


class World:
    """A service of two replicas on three nodes with doors, an operator that leads, and two gateways."""

    def __init__(self, server: ApiServer, kubelet: FakeKubelet, directory: Path) -> None:
        self.server, self.kubelet = server, kubelet
        self.doors = {f"node-{n}": KubeletDoor(directory / str(n), f"127.0.1.{n}") for n in range(1, NODES + 1)}
        for name, door in self.doors.items():
            endpoint = {"daemonEndpoints": {"kubeletEndpoint": {"Port": door.port}}}
            server.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": endpoint}, Content_Type=MERGE)
            self.patch_node(name, {"taints": [PERSONS]})
        key = directory / "key"
        key.write_text(KEY)
        self._log = directory / "operator.log"
        self._environment = {
            "KUBECONFIG": str(server.kubeconfig(OPERATOR)),
            "RYZANSTEIN_NAMESPACE": TEAM,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_POD_NAME": "one",
            "RYZANSTEIN_DEMAND_KEY_FILE": str(key),
            "RYZANSTEIN_NODE_HEALTH": "true",
            "RYZANSTEIN_NODE_TAINTS": "true",
        }
        self.operator = OperatorProcess(self._environment, self._log)
        self.silent: dict[str, float] = {}
        """Addresses that gateways do not reach, and since when."""

    def restart(self) -> None:
        """The operator is killed, and another takes its place."""
        self.operator.kill()
        self.operator = OperatorProcess(self._environment, self._log)
        wait_until(lambda: self.operator.leads, 60, "the lead of the next operator")

    def close(self) -> None:
        self.operator.kill()
        for door in self.doors.values():
            door.close()

    def patch_node(self, name: str, spec: Manifest) -> None:
        self.server.request("PATCH", f"/api/v1/nodes/{name}", {"spec": spec}, Content_Type=MERGE)

    def tell(self) -> list[int]:
        """Both gateways say what they see now; gives what they are answered."""
        return [self._post(sender) for sender in ("gateway-a", "gateway-b")]

    def _post(self, sender: str) -> int:
        now, ready = time.monotonic(), [pod["status"]["podIP"] for pod in self.pods() if is_ready(pod)]
        rows = tuple(
            ReplicaView(ip, State.UNREACHABLE, "It does not answer health checks.", round(now - since, 1))
            for ip, since in self.silent.items()
            if ip in ready
        )
        sees = ServiceView(TEAM, "chat-workers", len(ready) - len(rows), rows)
        connection = http.client.HTTPConnection("127.0.0.1", self.operator.demand_port, timeout=20)
        try:
            body = encode(View(sender, (sees,)))
            connection.request("POST", VIEWS_PATH, body, {"authorization": f"Bearer {KEY}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def until(self, holds: Callable[[], object], seconds: float, what: str) -> float:
        """Wait while the gateways go on telling; gives the seconds it took."""
        started, told = time.monotonic(), 0.0
        while not holds():
            assert time.monotonic() - started < seconds, f"{what} did not come true within {seconds} s"
            if time.monotonic() - told > 1.0:
                self.tell()
                told = time.monotonic()
            time.sleep(0.05)
        return time.monotonic() - started

    def pods(self) -> list[Manifest]:
        """Those that are not on their way out."""
        found = self.server.get(f"/api/v1/namespaces/{TEAM}/pods")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def leaving(self) -> list[Manifest]:
        found = self.server.get(f"/api/v1/namespaces/{TEAM}/pods")["items"]
        return [pod for pod in found if "deletionTimestamp" in pod["metadata"]]

    def status(self) -> Manifest:
        found: Manifest = self.server.get(SERVICES.path(TEAM, "chat")).get("status", {})
        return found

    def condition(self, kind: str) -> str:
        said = {one["type"]: f"{one['status']} {one['reason']}" for one in self.status().get("conditions", ())}
        return str(said.get(kind, ""))

    def taints(self, node: str) -> dict[str, str]:
        found = self.server.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or ()
        return {taint["key"]: taint.get("value", "") for taint in found}

    def events(self) -> set[str]:
        items = self.server.get(f"/apis/events.k8s.io/v1/namespaces/{TEAM}/events")["items"]
        return {item["reason"] for item in items if item["regarding"]["kind"] == SERVICES.kind}

    def metric(self, name: str) -> float:
        lines = self.operator.probe("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"ryzanstein_operator_{name}"))


def is_ready(pod: Manifest) -> bool:
    return {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}.items()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("nodes")
    with running(directory / "apiserver") as server:
        install_crd(server)
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": TEAM}})
        grant(server, TEAM)
        grant_nodes(server, taints=True)
        server.start_controllers()
        with fake_kubelet(server, nodes=NODES, slots=10, allocatable={GPU: 2}) as kubelet:
            made = World(server, kubelet, directory)
            try:
                wait_until(lambda: made.operator.leads, 60, "the lead")
                body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": "chat"}}
                spec = {"model": {"uri": "demo://"}, "replicas": 2, "accelerator": GPU}
                server.request("POST", SERVICES.path(TEAM), body | {"spec": spec})
                yield made
            finally:
                made.close()


@pytest.fixture
def settled(world: World) -> World:
    """Two replicas that gateways reach, on two nodes, and no node that is not counted on."""
    world.silent.clear()
    world.until(lambda: len([pod for pod in world.pods() if is_ready(pod)]) == 2, 60, "two ready replicas")
    world.until(lambda: world.condition("Serving") == "True EndpointsReady", 60, "serving")
    world.until(lambda: world.condition("Degraded") == "False AsExpected", 60, "nothing broken")
    wait_until(lambda: world.tell() == [200, 200], 30, "two gateways that are heard")
    return world


def test_replicas_that_do_not_answer_are_told_of_and_left_alone_while_their_kubelets_answer(settled: World) -> None:
    world, before = settled, {pod["metadata"]["uid"] for pod in settled.pods()}
    world.silent = {pod["status"]["podIP"]: time.monotonic() for pod in world.pods()[:1]}
    world.until(lambda: world.condition("Degraded") == "True ReplicaUnreachable", 15, "the status' word")
    asked = sum(door.asked for door in world.doors.values())
    deadline = time.monotonic() + 6
    world.until(lambda: time.monotonic() > deadline, 30, "six seconds of silence")
    assert sum(door.asked for door in world.doors.values()) > asked, "the kubelets were asked"
    assert {pod["metadata"]["uid"] for pod in world.pods()} == before
    assert world.status().get("unhealthyNodes", []) == []
    world.silent.clear()
    world.until(lambda: world.condition("Degraded") == "False AsExpected", 30, "the end of it")


def test_a_node_that_dies_loses_its_replica_to_another_within_seconds_and_gets_its_taint_off_when_it_is_back(
    settled: World,
) -> None:
    world, lost = settled, settled.pods()[0]
    node, uid = lost["spec"]["nodeName"], lost["metadata"]["uid"]
    other = next(pod["metadata"]["uid"] for pod in world.pods() if pod["metadata"]["uid"] != uid)
    world.kubelet.cut_off_node(node)
    world.doors[node].hang()
    world.silent = {lost["status"]["podIP"]: time.monotonic()}
    # Within ten seconds on a machine that does nothing else; by Kubernetes' own word it would take half a minute.
    world.until(lambda: world.condition("Degraded").startswith("True"), 15, "the status' word")
    world.until(world.leaving, 20, "the delete")
    world.until(lambda: len([pod for pod in world.pods() if pod["spec"].get("nodeName")]) == 2, 20, "another node")
    assert time.monotonic() - world.silent[lost["status"]["podIP"]] < 25
    assert nodes.SILENT_SECONDS + 2 * (probe.TRIES * probe.TRY_SECONDS + failover.LOOK_SECONDS) < 10
    assert [pod["metadata"]["uid"] for pod in world.leaving()] == [uid]
    assert node not in {pod["spec"]["nodeName"] for pod in world.pods()}
    assert other in {pod["metadata"]["uid"] for pod in world.pods()}
    assert world.taints(node) == {PERSONS["key"]: "yes", TAINT_UNHEALTHY: "NodeUnreachable"}
    world.until(lambda: len([pod for pod in world.pods() if is_ready(pod)]) == 2, 30, "the other replica")
    world.until(lambda: world.condition("Degraded") == "False AsExpected", 30, "a whole service")
    (unhealthy,) = world.status()["unhealthyNodes"]
    assert (unhealthy["name"], unhealthy["reason"]) == (node, "NodeUnreachable")
    assert (world.metric("unhealthy_nodes{"), world.metric("failover_deletions_total")) == (1, 1), "one pod, once"

    world.restart()
    world.until(lambda: world.metric("unhealthy_nodes{") == 1, 30, "what the next operator knows")
    assert world.status()["unhealthyNodes"] == [unhealthy]

    world.doors[node].open()
    world.kubelet.restore_node(node)
    world.until(lambda: not world.leaving(), 30, "the end of the old pod")
    world.until(lambda: world.taints(node) == {PERSONS["key"]: "yes"}, 60, "the taint's removal")
    world.until(lambda: not world.status().get("unhealthyNodes"), 30, "the status' word")
    world.until(lambda: {"NodeUnhealthy", "NodeRecovered"} <= world.events(), 30, "the Events")
    assert (world.metric("unhealthy_nodes{"), world.metric("failover_deletions_total")) == (0, 0)
    assert not [record for record in world.operator.records() if record["level"] == "error"]


def test_a_bad_accelerator_is_fenced_and_stays_so_until_a_person_takes_the_taint_away(settled: World) -> None:
    world, bad = settled, settled.pods()[0]
    node, ip = bad["spec"]["nodeName"], bad["status"]["podIP"]
    row = {"address": ip, "state": "NotReady", "reason": "", "seconds": 0.0, "accelerator_fault": "XID 79."}
    sees = {"namespace": TEAM, "service": "chat-workers", "sound": 1, "replicas": [row]}
    body = json.dumps({"sender": "gateway-a", "services": [sees]}).encode()

    def heard() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", world.operator.demand_port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", VIEWS_PATH, body, {"authorization": f"Bearer {KEY}"})
            return connection.getresponse().status == 200

    wait_until(heard, 30, "an operator that is not too busy to hear")
    wait_until(lambda: bad["metadata"]["uid"] not in {p["metadata"]["uid"] for p in world.pods()}, 30, "the delete")
    assert world.taints(node)[TAINT_UNHEALTHY] == "AcceleratorFault"

    def reasons() -> list[str]:
        return [one["reason"] for one in world.status().get("unhealthyNodes", ())]

    world.until(lambda: reasons() == ["AcceleratorFault"], 30, "the status' word")
    world.until(lambda: len([pod for pod in world.pods() if is_ready(pod)]) == 2, 30, "the other replica")
    assert node not in {pod["spec"]["nodeName"] for pod in world.pods()}
    still = time.monotonic() + 3
    world.until(lambda: time.monotonic() > still, 30, "three seconds without a report")
    assert TAINT_UNHEALTHY in world.taints(node)
    world.patch_node(node, {"taints": [PERSONS]})
    world.until(lambda: not world.status().get("unhealthyNodes"), 30, "the status' word")
    assert world.taints(node) == {PERSONS["key"]: "yes"}
