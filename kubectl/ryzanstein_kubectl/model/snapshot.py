"""What one look at the cluster showed. Built by `cluster/look`; everything shown is made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ryzanstein_kubectl.model.pages import Counters, StatusPage
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_worker import contract


class PodKey(NamedTuple):
    """Which pod."""

    namespace: str
    name: str

    @classmethod
    def of(cls, pod: Manifest) -> "PodKey":
        return cls(pod["metadata"]["namespace"], pod["metadata"]["name"])


@dataclass(frozen=True)
class Snapshot:
    """Manifests as the API server gave them, and what workers say.

    workloads: Deployments and StatefulSets of services; empty where they may not be read.
    nodes: by name; empty where they may not be read.
    notes: what could not be read and why, a sentence each.
    """

    taken: datetime
    services: tuple[Manifest, ...] = ()
    workloads: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    nodes: Mapping[str, Manifest] = field(default_factory=dict)
    pages: Mapping[PodKey, StatusPage] = field(default_factory=dict)
    counters: Mapping[PodKey, Counters] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def label(manifest: Manifest, key: str) -> str:
    """The value of a label, empty where there is none."""
    return str((manifest["metadata"].get("labels") or {}).get(key, ""))


def service_of(manifest: Manifest) -> tuple[str, str]:
    """Namespace and name of the service that an object belongs to."""
    return manifest["metadata"].get("namespace", ""), label(manifest, contract.LABEL_SERVICE)


def group_of(pod: Manifest) -> str:
    """The group of several pods that a pod is part of, or nothing."""
    return label(pod, contract.LABEL_GROUP)


def place_of(pod: Manifest) -> int:
    """A pod's place in its group: 0 leads, and is what a pod on its own is."""
    text = label(pod, contract.LABEL_POD_INDEX)
    return int(text) if group_of(pod) and text.isdigit() else 0


def leaves(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Manifest) -> bool:
    """Whether the kubelet calls it ready."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def leaders(pods: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """One pod for each replica: the one that answers HTTP."""
    return tuple(pod for pod in pods if place_of(pod) == 0)
