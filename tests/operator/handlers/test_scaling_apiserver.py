"""Autoscaling under a real API server and its controllers: there and back, from zero at once, over an operator's death.

Nodes, scheduling and readiness are `fakekubelet`'s; the numbers are those of a stub of Prometheus.
"""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apiserver import OPERATOR, ApiServer, running
from fakeapi import wait_until
from fakekubelet import fake_kubelet
from held_up import Held
from operator_process import OperatorProcess
from operator_rights import grant, install_crd
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_worker.contract import DEMAND_PATH, VIEWS_PATH
from stubprometheus import Fault, Stub, stub_prometheus

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(240)]

TEAM, KEY = "team", "a-shared-key"
MERGE = "application/merge-patch+json"
WAKE_SECONDS = 1.0
"""Promised, from the gateway's word to the Deployment of one replica; where the machine lets run what can run."""
Manifest = dict[str, Any]


class World:
    """A control plane, a Prometheus, a gateway's word, and an operator that may be killed and started again."""

    def __init__(self, server: ApiServer, stub: Stub, directory: Path) -> None:
        self.server, self.stub, self._directory, self.lives = server, stub, directory, 0
        (directory / "key").write_text(KEY)
        self.operator = self._start()

    def _start(self) -> OperatorProcess:
        self.lives += 1
        environment = {
            "KUBECONFIG": str(self.server.kubeconfig(OPERATOR)),
            "RYZANSTEIN_NAMESPACE": TEAM,
            "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
            "RYZANSTEIN_DEMAND_KEY_FILE": str(self._directory / "key"),
            "RYZANSTEIN_PROMETHEUS_URL": self.stub.url,
            "RYZANSTEIN_POD_NAME": "one",  # the same each time, so that its own Lease does not keep it waiting
        }
        return OperatorProcess(environment, self._directory / f"operator-{self.lives}.log")

    def restart(self) -> None:
        """Killed, and started anew."""
        self.operator.end(signal.SIGKILL)
        self.operator = self._start()
        wait_until(lambda: self.operator.leads, 60, "the next life")

    def make(self, name: str, **spec: Any) -> None:
        """An autoscaled service; keywords are fields of its spec, `autoscaling`'s on top of the usual ones."""
        usual = {
            "maxReplicas": 4,
            "targets": [{"metric": "WaitingRequests", "value": 5}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        }
        spec = {"model": {"uri": "demo://"}, **spec, "autoscaling": usual | spec.get("autoscaling", {})}
        body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": {"name": name}, "spec": spec}
        self.server.request("POST", SERVICES.path(TEAM), body)

    def service(self, name: str) -> Manifest:
        return dict(self.server.get(SERVICES.path(TEAM, name)))

    def size(self, name: str) -> int | None:
        """What the Deployment is to have."""
        found = self.server.get(f"/apis/apps/v1/namespaces/{TEAM}/deployments")["items"]
        return next((one["spec"]["replicas"] for one in found if one["metadata"]["name"] == name), None)

    def ready(self, name: str, replicas: int) -> None:
        """Wait until there are so many, all of them ready."""

        def there() -> bool:
            status = self.service(name).get("status", {})
            return (status.get("desiredReplicas"), status.get("readyReplicas")) == (replicas, replicas)

        wait_until(there, 90, f"{replicas} replicas of {name}")

    def condition(self, name: str, kind: str) -> Manifest:
        found = self.service(name).get("status", {}).get("conditions", ())
        return next((one for one in found if one["type"] == kind), {})

    def events(self, name: str, reason: str) -> list[str]:
        found = self.server.get(f"/apis/events.k8s.io/v1/namespaces/{TEAM}/events")["items"]
        return [one["note"] for one in found if one["regarding"]["name"] == name and one["reason"] == reason]

    def tell(self, path: str, **words: Any) -> int:
        """A gateway says something; the status that it is answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.operator.demand_port, timeout=30)
        with closing(connection):
            body = json.dumps({"sender": "gateway-a", **words})
            connection.request("POST", path, body, {"authorization": f"Bearer {KEY}"})
            return connection.getresponse().status


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("scaling")
    with running(directory / "api") as server:
        install_crd(server)
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": TEAM}})
        grant(server, TEAM)
        server.start_controllers()
        with fake_kubelet(server, nodes=4, slots=8), stub_prometheus() as stub:
            found = World(server, stub, directory)
            try:
                wait_until(lambda: found.operator.leads, 60, "the operator")
                yield found
            finally:
                found.operator.kill()


@pytest.fixture(autouse=True)
def calm(world: World) -> Iterator[None]:
    """Each test begins with a Prometheus that answers, and leaves no service behind."""
    world.stub.fault, world.stub.value, world.stub.replicas, world.stub.active = None, 0, 4, 0
    yield
    for one in world.server.get(SERVICES.path(TEAM))["items"]:
        world.server.request("DELETE", SERVICES.path(TEAM, one["metadata"]["name"]))
    wait_until(lambda: not world.server.get(f"/api/v1/namespaces/{TEAM}/pods")["items"], 60, "the end of all pods")


def test_the_size_goes_up_and_down_with_the_load_and_ready_never_flips(world: World) -> None:
    world.make("chat")
    world.ready("chat", 1)
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            seen.add(world.condition("chat", "Ready").get("status", ""))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        world.stub.value = 15
        world.ready("chat", 3)
        world.stub.value = 0
        world.ready("chat", 1)
    finally:
        stop.set()
        watcher.join(10)
    assert seen == {"True"}
    assert world.service("chat")["spec"]["replicas"] == 1
    status = world.service("chat")["status"]["autoscaling"]
    assert (status["metric"], status["target"]) == ("WaitingRequests", "5")
    up, down = sorted(world.events("chat", "Rescaled"))
    assert up.startswith("1 to 3 replicas: WaitingRequests is 15")
    assert down.startswith("3 to 1 replicas: WaitingRequests is ")


def test_an_operator_that_is_killed_leaves_the_size_and_the_next_one_keeps_it_without_metrics(world: World) -> None:
    world.make("chat")
    world.ready("chat", 1)
    world.stub.value = 20
    world.ready("chat", 4)
    world.stub.fault = Fault(503)
    world.restart()
    wait_until(lambda: world.condition("chat", "ScalingActive").get("reason") == "MetricsUnavailable", 60, "the word")
    assert world.size("chat") == 4
    assert world.condition("chat", "Ready")["status"] == "True"
    world.stub.fault = None
    wait_until(lambda: world.condition("chat", "ScalingActive").get("reason") == "MetricsRead", 60, "the metrics")


def test_after_idle_there_is_no_replica_and_the_first_request_brings_one_within_a_second(world: World) -> None:
    world.make("chat", autoscaling={"minReplicas": 0, "idleSecondsBeforeZero": 10})
    world.ready("chat", 1)
    row = {"namespace": TEAM, "service": "chat-workers", "sound": 1, "replicas": []}

    def idle() -> bool:
        world.tell(VIEWS_PATH, services=[row | {"in_flight": 0, "waiting": 0, "idle_seconds": 11.0}])
        return world.size("chat") == 0

    wait_until(idle, 60, "zero")
    wait_until(lambda: world.condition("chat", "ScalingActive").get("reason") == "AtZero", 30, "the word")
    wait_until(lambda: "no request" in world.condition("chat", "Ready").get("message", ""), 30, "the sentence")
    world.stub.fault = Fault(500)  # it is the gateway's word, and no scrape, that wakes
    held = Held([os.getpid(), world.operator.process.pid, *world.server.pids.values()])
    started = time.monotonic()
    assert world.tell(DEMAND_PATH, namespace=TEAM, service="chat-workers", waiting=1) == 200
    wait_until(lambda: world.size("chat") == 1, 60, "the replica for the first request")
    took, lost = time.monotonic() - started, held.seconds()
    print(f"from the gateway's word to the Deployment: {took:.3f} s")
    assert took <= WAKE_SECONDS + lost, f"after {took:.1f} s, of which this machine took {lost:.1f}"

    def told() -> bool:
        return any(words.startswith("0 to 1") for words in world.events("chat", "Rescaled"))

    wait_until(told, 60, "the Event, which comes after the deed")


def test_groups_of_pods_scale_by_whole_groups(world: World) -> None:
    world.make("wide", parallelism={"tensor": 2, "nodes": 2}, autoscaling={"maxReplicas": 2})
    world.ready("wide", 1)
    world.stub.value = 30
    world.ready("wide", 2)
    groups = world.server.get(f"/apis/apps/v1/namespaces/{TEAM}/statefulsets")["items"]
    assert [group["spec"]["replicas"] for group in groups] == [2, 2]
    world.stub.value = 0
    world.ready("wide", 1)
    wait_until(lambda: len(world.server.get(f"/api/v1/namespaces/{TEAM}/pods")["items"]) == 2, 60, "one group")


def test_what_has_no_node_is_told_and_not_asked_for_twice(world: World) -> None:
    world.make("big", template={"nodeSelector": {"kubernetes.io/hostname": "node-9"}})
    wait_until(lambda: world.condition("big", "CapacityAvailable").get("status") == "False", 60, "the scheduler's word")
    world.stub.value = 100
    wait_until(lambda: world.condition("big", "ScalingLimited").get("reason") == "CapacityUnavailable", 60, "the word")
    assert world.size("big") == 1
    assert world.events("big", "CapacityUnavailable")


def test_without_autoscaling_spec_replicas_holds_again(world: World) -> None:
    world.make("chat")
    world.ready("chat", 1)
    world.stub.value = 15
    world.ready("chat", 3)
    patch = {"spec": {"autoscaling": None, "replicas": 2}}
    world.server.request("PATCH", SERVICES.path(TEAM, "chat"), patch, Content_Type=MERGE)
    world.ready("chat", 2)
    assert "autoscaling" not in world.service("chat")["status"]
    assert world.condition("chat", "ScalingActive")["reason"] == "NotConfigured"
