"""What a kubelet writes: manifests of nodes and of the status of pods that are said to run. Pure but for the clock."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Manifest = dict[str, Any]


def path_of(pod: Manifest) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, **words: str) -> Manifest:
    return {"type": kind, "status": status, "lastTransitionTime": now(), **words}


def restarts_of(pod: Manifest) -> int:
    return max((status["restartCount"] for status in pod["status"].get("containerStatuses", ())), default=0)


def running(pod: Manifest, address: str, *, ready: bool, restarts: int) -> Manifest:
    """The status of a pod whose containers run, whether or not it answers its readiness probe."""
    said = "True" if ready else "False"
    conditions = [condition(kind, "True") for kind in ("PodScheduled", "Initialized")]
    conditions += [condition(kind, said) for kind in ("ContainersReady", "Ready")]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "startTime": pod["status"].get("startTime", now()),
        "conditions": conditions,
        "initContainerStatuses": [
            _container(one, {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now()}}, True, 0)
            for one in pod["spec"].get("initContainers", ())
        ],
        "containerStatuses": [
            _container(one, {"running": {"startedAt": now()}}, ready, restarts) for one in pod["spec"]["containers"]
        ],
    }


def _container(container: Manifest, state: Manifest, ready: bool, restarts: int) -> Manifest:
    status = {"name": container["name"], "image": container["image"], "imageID": "", "ready": ready}
    return status | {"restartCount": restarts, "started": True, "state": state}


def node_of(index: int, slots: int, allocatable: Mapping[str, int], labels: Mapping[str, str]) -> Manifest:
    name = f"node-{index}"
    amounts = {"cpu": "1000", "memory": "4000Gi", "pods": str(slots)} | {k: str(v) for k, v in allocatable.items()}
    ready = condition("Ready", "True", reason="KubeletReady", message="kubelet is posting ready status")
    addresses = [{"type": "InternalIP", "address": f"127.0.1.{index}"}, {"type": "Hostname", "address": name}]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready], "addresses": addresses},
    }
