"""What a drain takes out, in which order, and when the next may go. Pure.

One replica at a time: the next goes when the pods of the last are gone and as many replicas are ready as before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_kubectl.model.pages import StatusPage
from ryzanstein_kubectl.model.pods import pod_of
from ryzanstein_kubectl.model.scaling import wanted
from ryzanstein_kubectl.model.snapshot import (
    PodKey,
    Snapshot,
    group_of,
    is_ready,
    leaders,
    leaves,
    place_of,
    service_of,
)
from ryzanstein_operator.api.wire import Manifest

USAGE = "write pod/NAME, node/NAME or SERVICE/REPLICA"


@dataclass(frozen=True)
class Target:
    """What is to be drained. service: of a replica alone."""

    kind: Literal["pod", "node", "replica"]
    name: str
    service: str = ""


def parse_target(text: str) -> Target:
    """Reads pod/NAME, node/NAME or SERVICE/REPLICA. Raises CommandError."""
    kind, slash, name = text.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise CommandError(f"{text!r} is nothing to drain: {USAGE}.")
    if kind in ("pod", "pods", "po"):
        return Target("pod", name)
    if kind in ("node", "nodes", "no"):
        return Target("node", name)
    return Target("replica", name, kind)


@dataclass(frozen=True)
class Batch:
    """Pods that go together, the leader of a group first. `replica` is the pod or the group that they are (part of)."""

    namespace: str
    service: str
    replica: str
    pods: tuple[Manifest, ...]

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(pod["metadata"]["uid"] for pod in self.pods)

    @property
    def group(self) -> bool:
        return bool(group_of(self.pods[0]))

    @property
    def serves(self) -> bool:
        return all(is_ready(pod) and not leaves(pod) for pod in self.pods)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.replica}"


def batches(pods: Iterable[Manifest]) -> tuple[Batch, ...]:
    """One batch for each replica; those that serve nobody first (also those that go already), then by name."""
    found: dict[tuple[str, str, str], list[Manifest]] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            key = (*service_of(pod), group_of(pod) or pod["metadata"]["name"])
            found.setdefault(key, []).append(pod)
    made = [Batch(*key, tuple(sorted(members, key=place_of))) for key, members in found.items()]
    return tuple(sorted(made, key=lambda one: (one.serves, one.namespace, one.service, one.replica)))


def replica_pods(target: Target, pods: Sequence[Manifest]) -> list[Manifest]:
    """The pod to take of SERVICE/REPLICA: REPLICA is the name of a pod or a group, or its end. Raises CommandError.

    Of a group it is the leader alone: it lets the streams end, tells the others, and all are started anew.
    """
    by_name: dict[str, list[Manifest]] = {}
    for pod in pods:
        by_name.setdefault(group_of(pod) or pod["metadata"]["name"], []).append(pod)
    found = [name for name in by_name if name == target.name] or [
        name for name in by_name if name.endswith(f"-{target.name}")
    ]
    if len(found) == 1:
        return sorted(by_name[found[0]], key=place_of)[:1]
    names = ", ".join(sorted(found or by_name)) or "none"
    if found:
        raise CommandError(f"Several replicas of {target.service} end with {target.name}: {names}.")
    raise CommandError(f"{target.service} has no replica {target.name}; its replicas: {names}.")


def ready_replicas(pods: Iterable[Manifest], service: tuple[str, str]) -> int:
    """Replicas of a service that take requests and stay."""
    ours = tuple(pod for pod in pods if service_of(pod) == service)
    return sum(is_ready(pod) and not leaves(pod) for pod in leaders(ours))


@dataclass(frozen=True)
class Progress:
    """How far a batch is. gone: its pods are; whole: and as many replicas are ready as before; words: what it is at."""

    gone: bool
    whole: bool
    words: str


def progress(batch: Batch, before: int, snapshot: Snapshot) -> Progress:
    """`before`: ready replicas of the service before the batch went."""
    left = [pod for pod in snapshot.pods if pod["metadata"]["uid"] in batch.uids]
    if left:
        return Progress(False, False, _leaving(left, snapshot.pages))
    service = (batch.namespace, batch.service)
    ready = ready_replicas(snapshot.pods, service)
    goal = min(before, _asked_for(snapshot, service))
    if ready >= goal:
        return Progress(True, True, f"{ready} {_plural(ready, 'replica')} ready")
    return Progress(
        True, False, f"gone; {ready} of {goal} {_plural(goal, 'replica')} ready{_newcomers(snapshot, service)}"
    )


def _leaving(left: Sequence[Manifest], pages: Mapping[PodKey, StatusPage]) -> str:
    loads = [page.load for pod in left if (page := pages.get(PodKey.of(pod))) is not None]
    if not loads:
        return "finishes its requests"
    count = sum(load.running + load.waiting for load in loads)
    return f"{count} {_plural(count, 'request')} left" if count else "has no requests left"


def _asked_for(snapshot: Snapshot, service: tuple[str, str]) -> int:
    """As it is now: a service that is scaled down meanwhile is not waited for."""
    for live in snapshot.services:
        if (live["metadata"]["namespace"], live["metadata"]["name"]) == service:
            return wanted(live)
    return 0


def _newcomers(snapshot: Snapshot, service: tuple[str, str]) -> str:
    """What the pods that are not ready do, so that one sees why it takes long."""
    told = []
    for pod in leaders(snapshot.pods):
        if service_of(pod) == service and not is_ready(pod) and not leaves(pod):
            shown = pod_of(pod, "", (), "", snapshot.taken)
            told.append(f"{shown.name} {shown.detail or shown.state}")
    return f": {'; '.join(sorted(told))}" if told else ""


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
