"""A cluster to look at with the kubectl plugin: a fake API server, what stands for its kubelets, and workers' pages."""

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import operator_builders as build
from fakeapi import FakeApi
from healthpages import HealthPages, health_pages
from kubeletside import KubeletSide, kubelet_side
from ryzanstein_kubectl.commands.line import run
from ryzanstein_worker import contract

Manifest = dict[str, Any]
TEAM = "team"


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """What a test may change while the plugin looks."""

    api: FakeApi
    side: KubeletSide
    kubeconfig: Path
    stack: contextlib.ExitStack

    def words(self, *command: str) -> list[str]:
        """A command line against this cluster."""
        return [*command, "--kubeconfig", str(self.kubeconfig)]

    def service(self, name: str = "chat", *, conditions: Sequence[Manifest] = (), **spec: Any) -> Manifest:
        manifest = build.service(name, namespace=TEAM, **spec)
        if conditions:
            manifest["status"] = {"conditions": list(conditions)}
        return self.api.put(manifest)

    def pod(self, service: Manifest, name: str, *, ready: bool = True, **more: Any) -> Manifest:
        """A pod of the service; keywords: node, revision, labels, status."""
        node, revision = more.get("node", "node-1"), more.get("revision", "")
        make = build.ready_pod if ready else build.pod
        manifest = copy.deepcopy(make(service, name, node=node, revision=revision))
        manifest["metadata"]["labels"] |= more.get("labels", {})
        manifest["status"] |= {"podIP": "127.0.0.1"} | more.get("status", {})
        return self.api.put(manifest)

    def group(self, service: Manifest, name: str, nodes: int, *, ready: bool = True) -> list[Manifest]:
        """The pods of one group, each on a node of its own."""
        labels = [{contract.LABEL_GROUP: name, contract.LABEL_POD_INDEX: str(index)} for index in range(nodes)]
        return [
            self.pod(service, f"{name}-{index}", ready=ready, node=f"node-{index + 1}", labels=labels[index])
            for index in range(nodes)
        ]

    def pages(self, pod: Manifest, *, ranks: int = 1, nodes: int = 1) -> HealthPages:
        """A worker's pages behind a pod."""
        made = self.stack.enter_context(health_pages(ranks, nodes))
        self.side.pages[pod["metadata"]["namespace"], pod["metadata"]["name"]] = made.port
        return made


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    """A cluster without services."""
    api = FakeApi(directory)
    api.start()
    try:
        with contextlib.ExitStack() as stack:
            side = stack.enter_context(kubelet_side(api.url))
            kubeconfig = side.kubeconfig(directory / "side.kubeconfig", "any-token", TEAM)
            yield World(api, side, kubeconfig, stack)
    finally:
        api.stop()


def condition(kind: str, status: str, reason: str, message: str = "", *, seconds: float = 60.0) -> Manifest:
    """A condition of a status, as old as that."""
    said = {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1}
    return said | {"lastTransitionTime": ago(seconds)}


ALL_WELL = (
    condition("Ready", "True", "AllReplicasReady", "2 of 2 replicas are ready"),
    condition("Serving", "True", "EndpointsReady", "2 replicas answer requests"),
    condition("Progressing", "False", "RolloutComplete"),
    condition("ModelCached", "True", "InImage"),
    condition("CapacityAvailable", "True", "Scheduled"),
    condition("Degraded", "False", "AsExpected"),
)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Plugin:
    """Runs commands against the cluster of the test."""

    def __init__(self, cluster: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._cluster, self._capsys = cluster, capsys

    def __call__(self, *words: str) -> Done:
        self._capsys.readouterr()
        status = run(self._cluster.words(*words))
        captured = self._capsys.readouterr()
        return Done(status, captured.out, captured.err)
