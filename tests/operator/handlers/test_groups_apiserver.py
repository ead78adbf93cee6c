"""Groups of pods under a real API server and its controllers: whole or not at all, over the operator's own deaths too.

Nodes, scheduling and readiness are `fakekubelet`'s; one pod fills a node, and two of the six nodes are kept back.
"""

import contextlib
import http.client
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from ryzanstein_worker.contract import VIEWS_PATH

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

TEAM = "team"
MERGE = "application/merge-patch+json"
TIMEOUT, NODES, KEY = 10, 6, "a-shared-key"
Manifest = dict[str, Any]


class World:
    """A service of groups of two pods, and an operator that may be killed and started again."""

    def __init__(self, server: ApiServer, kubelet: FakeKubelet, directory: Path) -> None:
        self.server, self.kubelet, self._directory, self.lives = server, kubelet, directory, 0
        (directory / "key").write_text(KEY)
        self.doors = {f"node-{n}": KubeletDoor(directory / str(n), f"127.0.1.{n}") for n in range(1, NODES + 1)}
        for name, door in self.doors.items():
            endpoint = {"daemonEndpoints": {"kubeletEndpoint": {"Port": door.port}}}
            server.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": endpoint}, Content_Type=MERGE)
        self.keep_back(True)
        self.operator = self._start()

    def close(self) -> None:
        self.operator.kill()
        for door in self.doors.values():
            door.close()

    def keep_back(self, cordoned: bool) -> None:
        """Whether the last two nodes take no pods."""
        for number in (NODES - 1, NODES):
            body = {"spec": {"unschedulable": cordoned}}
            self.server.request("PATCH", f"/api/v1/nodes/node-{number}", body, Content_Type=MERGE)

    def tell(self, silent: str, since: float) -> None:
        """A gateway says that it does not reach one pod, and one other replica it does. An operator that is busy is
        told again, as gateways do."""
        seconds = round(time.monotonic() - since, 1)
        rows = (ReplicaView(silent, State.UNREACHABLE, "It does not answer health checks.", seconds),)
        body = encode(View("gateway-a", (ServiceView(TEAM, "chat-workers", 1, rows),)))
        connection = http.client.HTTPConnection("127.0.0.1", self.operator.demand_port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", VIEWS_PATH, body, {"authorization": f"Bearer {KEY}"})
            assert connection.getresponse().status in (200, 503)

    def _start(self) -> OperatorProcess:
        self.lives += 1
        environment = {
            "KUBECONFIG": str(self.server.kubeconfig(OPERATOR)),
            "RYZANSTEIN_NAMESPACE": TEAM,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_NODE_HEALTH": "true",
            "RYZANSTEIN_DEMAND_KEY_FILE": str(self._directory / "key"),
            "RYZANSTEIN_POD_NAME": "one",  # the same each time, so that its own Lease does not keep it waiting
        }
        return OperatorProcess(environment, self._directory / f"operator-{self.lives}.log")

    def restart(self) -> None:
        """The operator dies without a word, and another takes its place."""
        self.operator.end(signal.SIGKILL)
        self.operator = self._start()

    def make(self, name: str, **spec: Any) -> None:
        parallelism = {"tensor": 2, "nodes": 2, "placementTimeoutSeconds": TIMEOUT}
        body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}}
        spec = {"model": {"uri": "demo://"}, "parallelism": parallelism, "disruption": {"drainSeconds": 1}, **spec}
        self.server.request("POST", SERVICES.path(TEAM), body | {"spec": spec})

    def change(self, name: str, **spec: Any) -> None:
        self.server.request("PATCH", SERVICES.path(TEAM, name), {"spec": spec}, Content_Type=MERGE)

    def remove(self, name: str) -> None:
        self.server.request("DELETE", SERVICES.path(TEAM, name))
        wait_until(lambda: not self.pods() and not self.groups(), 60, "the garbage collection")

    def items(self, path: str) -> list[Manifest]:
        found: list[Manifest] = self.server.get(f"{path}?labelSelector=ryzanstein.dev/inference-service")["items"]
        return found

    def groups(self) -> list[Manifest]:
        return self.items(f"/apis/apps/v1/namespaces/{TEAM}/statefulsets")

    def pods(self) -> list[Manifest]:
        return self.items(f"/api/v1/namespaces/{TEAM}/pods")

    def status(self, name: str) -> Manifest:
        found: Manifest = self.server.get(SERVICES.path(TEAM, name)).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> Manifest:
        said = {one["type"]: one for one in self.status(name).get("conditions", ())}
        found: Manifest = said.get(kind, {"status": "", "reason": "", "message": ""})
        return found

    def at_rest(self, name: str, replicas: int) -> bool:
        status = self.status(name)
        counts = {status.get(field) for field in ("replicas", "readyReplicas", "updatedReplicas")}
        return counts == {replicas} and "operation" not in status and len(self.groups()) == replicas


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("groups")
    with running(directory / "apiserver") as server:
        install_crd(server)
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": TEAM}})
        grant(server, TEAM)
        grant_nodes(server, taints=False)
        server.start_controllers()
        with fake_kubelet(server, nodes=NODES, slots=1) as kubelet:
            made = World(server, kubelet, directory)
            try:
                wait_until(lambda: made.operator.leads, 60, "the lead")
                yield made
            finally:
                made.close()


def endpoints(world: World) -> list[str]:
    """The pods behind the Service that takes requests."""
    of_it = "labelSelector=kubernetes.io/service-name=chat-workers"
    slices = world.server.get(f"/apis/discovery.k8s.io/v1/namespaces/{TEAM}/endpointslices?{of_it}")
    return [end["targetRef"]["name"] for one in slices["items"] for end in one["endpoints"] or ()]


def test_a_group_comes_up_whole_and_its_first_pod_alone_is_an_endpoint(world: World) -> None:
    world.make("chat", replicas=2)
    wait_until(lambda: world.at_rest("chat", 2), 60, "two groups")
    by_group = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in world.pods()}
    assert len(set(by_group.values())) == 4
    for group in world.groups():
        indices = [pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] for pod in world.pods()
                   if pod["metadata"]["labels"]["ryzanstein.dev/group"] == group["metadata"]["name"]]  # fmt: skip
        assert sorted(indices) == ["0", "1"]
    secret = world.server.get(f"/api/v1/namespaces/{TEAM}/secrets/chat-group-key")
    assert len(secret["data"]["key"]) > 60
    # Kubernetes' own controller fills the slices when it comes to it.
    wait_until(lambda: len(endpoints(world)) >= 2, 60, "two endpoints")
    assert sorted(name[-2:] for name in endpoints(world)) == ["-0", "-0"]
    scale = world.server.get(f"{SERVICES.path(TEAM, 'chat')}/scale")["status"]
    assert scale["replicas"] == 2
    assert scale["selector"].endswith("apps.kubernetes.io/pod-index=0")
    world.operator.rest()


def test_a_rollout_without_spare_nodes_goes_in_place_though_the_operator_dies_at_every_step(world: World) -> None:
    """Both replicas fill all four nodes. Every new word of the record is the operator's last."""
    world.change("chat", engine={"maxNumSeqs": 8})
    seen: list[tuple[str, str]] = []
    ready, groups, reasons = 2, 0, set()
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        status = world.status("chat")
        operation = status.get("operation", {})
        step = (operation.get("id", ""), f"{operation.get('step')} {operation.get('target')}")
        if operation and step not in seen:
            seen.append(step)
            world.restart()
        ready = min(ready, status["readyReplicas"])
        groups = max(groups, len([one for one in world.groups() if "deletionTimestamp" not in one["metadata"]]))
        reasons.add(world.condition("chat", "Progressing")["reason"])
        if seen and world.at_rest("chat", 2):
            break
        time.sleep(0.05)
    assert world.at_rest("chat", 2), f"{world.status('chat')} after {seen}"
    assert seen[0][0].startswith("rollout-")
    assert any(name.endswith("-in-place") for name, _ in seen)
    assert "NoSpareCapacity" in reasons
    assert (ready, groups) == (1, 3)
    assert world.status("chat")["lastFailure"]["reason"] == "GroupWithdrawn"
    assert {one["metadata"]["labels"]["ryzanstein.dev/revision"] for one in world.groups()} == {
        pod["metadata"]["labels"]["ryzanstein.dev/revision"] for pod in world.pods()
    }


def test_a_group_that_finds_no_nodes_is_withdrawn_and_said_until_there_are_some(world: World) -> None:
    wait_until(lambda: world.operator.leads, 60, "the lead")
    world.change("chat", replicas=3)
    wait_until(lambda: world.status("chat").get("operation", {}).get("step") == "Pause", 60, "a withdrawal")
    # Before the pause, of ten seconds at least, is over and another try holds nodes.
    wait_until(lambda: len(world.pods()) == 4, 9, "the end of what was withdrawn: it holds nothing")
    said = world.condition("chat", "CapacityAvailable")
    assert (said["status"], said["reason"]) == ("False", "Unschedulable")
    assert "0/6 nodes are available: 4 Too many pods, 2 node(s) were unschedulable" in said["message"]
    assert world.condition("chat", "Ready")["status"] == "False"
    assert world.condition("chat", "Serving")["status"] == "True"
    world.change("chat", replicas=2)
    wait_until(lambda: world.at_rest("chat", 2), 60, "two groups again")


def test_a_pod_that_is_killed_leaves_its_group_to_its_kubelets(world: World) -> None:
    before = {one["metadata"]["uid"] for one in world.groups()}
    name = world.pods()[1]["metadata"]["name"]

    def told() -> bool:
        status = world.status("chat")
        broken = next(one["message"] for one in status["conditions"] if one["type"] == "Degraded")
        return status["readyReplicas"] == 1 and name in broken

    # It is down for long enough to be seen so; who kills it is told when it is up again.
    with ThreadPoolExecutor(1) as aside:
        again = aside.submit(world.kubelet.kill_pod, TEAM, name, exit_code=70, restart_after=6.0)
        wait_until(told, 20, "the status")
        again.result()
    wait_until(lambda: world.at_rest("chat", 2), 60, "its return")
    assert {one["metadata"]["uid"] for one in world.groups()} == before


def test_a_group_that_loses_a_node_is_replaced_whole_within_seconds_and_nothing_of_it_stays(world: World) -> None:
    world.keep_back(False)
    lost = next(pod for pod in world.pods() if pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0")
    node, group = lost["spec"]["nodeName"], lost["metadata"]["labels"]["ryzanstein.dev/group"]
    kept = {one["metadata"]["uid"] for one in world.groups() if one["metadata"]["name"] != group}
    world.kubelet.cut_off_node(node)
    world.doors[node].hang()
    since = time.monotonic()

    def replaced() -> bool:
        world.tell(lost["status"]["podIP"], since)
        alive = {one["metadata"]["name"] for one in world.groups() if "deletionTimestamp" not in one["metadata"]}
        places = [
            pod["spec"].get("nodeName")
            for pod in world.pods()
            if pod["metadata"]["labels"]["ryzanstein.dev/group"] in alive
        ]
        return group not in alive and len(alive) == 2 and len(places) == 4 and all(places) and node not in places

    # Within ten seconds on a machine that does nothing else: what it waits for itself makes less. By Kubernetes' own
    # word it would take half a minute.
    wait_until(replaced, 20, "another group on other nodes")
    assert nodes.SILENT_SECONDS + 2 * (probe.TRIES * probe.TRY_SECONDS + failover.LOOK_SECONDS) < 10
    assert kept < {one["metadata"]["uid"] for one in world.groups()}
    failure = world.status("chat")["lastFailure"]
    assert (failure["reason"], failure["target"]) == ("GroupReplaced", group)
    wait_until(lambda: world.status("chat")["readyReplicas"] == 2, 60, "two ready groups")
    world.doors[node].open()
    world.kubelet.restore_node(node)
    wait_until(lambda: world.at_rest("chat", 2) and len(world.pods()) == 4, 60, "the end of what was left")


def test_a_deleted_service_leaves_no_group_and_no_pod(world: World) -> None:
    world.remove("chat")
    secrets = f"/api/v1/namespaces/{TEAM}/secrets"
    wait_until(lambda: not world.server.get(secrets)["items"], 60, "the key's end")
