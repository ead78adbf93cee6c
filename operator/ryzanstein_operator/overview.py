"""What the operator knows of every service, for the gateway's page: the answer to GET contract.OVERVIEW_PATH.

The form, as JSON. Every field is always there; times are RFC 3339 in UTC, numbers are integers.

    {"operator": {"version", "identity", "leader": true, "time"},
     "truncated": false,          some services are not in it: the answer holds MOST_SERVICES and MAX_BYTES at most
     "services_total": 1,         how many there are
     "services": [                by namespace and name
       {"namespace", "name", "created",
        "model": what clients put in "model", "uri": where it is taken from,
        "key_sets": ["default"],  never empty: a page shows a key only the services of its key sets
        "generation", "observed_generation": the status is about the latest spec where the two are the same,
        "desired", "replicas", "ready", "updated",
        "autoscaling": null or {"metric", "value", "target", "message", "last_scale_time": a time or "",
                                "min_replicas", "max_replicas"},
        "conditions": [{"type", "status": "True" | "False" | "Unknown", "reason", "message", "since"}],
        "last_failure": null or {"time", "reason", "message", "target"},
        "unhealthy_nodes": [{"name", "reason", "message", "since"}],
        "pods_total": how many there are,
        "pods": [                 by name, MOST_PODS of them at most
          {"name", "node": "" while it has none, "address": the same, "ready": bool, "restarts", "revision",
           "group": "" or the group of pods that it is one of, "created",
           "step": what it waits for, does or suffers from, a phrase that follows its name; "" where it is ready}],
        "events": [               the newest first, those that this process has emitted since its start
          {"time", "type": "Normal" | "Warning", "reason", "message", "count"}]}]}

Knows the form and the manifests that it is made of. No secret, no key and no value of an environment variable is in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from ryzanstein_operator.api.wire import Manifest, section
from ryzanstein_operator.decide import pods as pods_module
from ryzanstein_operator.decide.claims import model_name
from ryzanstein_operator.desired.names import LABEL_REVISION
from ryzanstein_worker import contract

MOST_SERVICES: Final = 1000
MOST_PODS: Final = 64
MAX_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class OperatorRow:
    """Who answers. leader: always true, for one that stands by gives no overview."""

    version: str
    identity: str
    leader: bool
    time: str


@dataclass(frozen=True)
class ConditionRow:
    """One condition. since: of this status."""

    type: str
    status: str
    reason: str
    message: str
    since: str


@dataclass(frozen=True)
class AutoscalingRow:
    """What the size was last chosen by, and its bounds."""

    metric: str
    value: str
    target: str
    message: str
    last_scale_time: str
    min_replicas: int
    max_replicas: int


@dataclass(frozen=True)
class FailureRow:
    """What went wrong last."""

    time: str
    reason: str
    message: str
    target: str


@dataclass(frozen=True)
class NodeRow:
    """A node of the service that cannot be counted on."""

    name: str
    reason: str
    message: str
    since: str


@dataclass(frozen=True)
class PodRow:
    """One worker pod, on its way out or not."""

    name: str
    node: str
    address: str
    ready: bool
    restarts: int
    revision: str
    group: str
    created: str
    step: str


@dataclass(frozen=True)
class EventRow:
    """An Event, with the time at which it was emitted last and how often it was."""

    time: str
    type: str
    reason: str
    message: str
    count: int


@dataclass(frozen=True)
class ServiceRow:
    """One InferenceService."""

    namespace: str
    name: str
    created: str
    model: str
    uri: str
    key_sets: tuple[str, ...]
    generation: int
    observed_generation: int
    desired: int
    replicas: int
    ready: int
    updated: int
    autoscaling: AutoscalingRow | None
    conditions: tuple[ConditionRow, ...]
    last_failure: FailureRow | None
    unhealthy_nodes: tuple[NodeRow, ...]
    pods_total: int
    pods: tuple[PodRow, ...]
    events: tuple[EventRow, ...]


@dataclass(frozen=True)
class Picture:
    """One service as the operator holds it. pods: its worker pods; events: the newest first."""

    service: Manifest
    pods: tuple[Manifest, ...]
    events: tuple[EventRow, ...]


_OPERATOR: Final = TypeAdapter(OperatorRow)
_SERVICE: Final = TypeAdapter(ServiceRow)


def encode(operator: OperatorRow, pictures: Iterable[Picture], total: int, now: datetime) -> bytes:
    """The whole answer, with as many of the services as there is room for. `total`: how many there are."""
    rows: list[bytes] = []
    room = MAX_BYTES
    for picture in pictures:
        row = _SERVICE.dump_json(service_row(picture, now))
        room -= len(row) + 1
        if room < 0 or len(rows) == MOST_SERVICES:
            break
        rows.append(row)
    truncated = b"true" if len(rows) < total else b"false"
    head = b'{"operator":%b,"truncated":%b,"services_total":%d' % (_OPERATOR.dump_json(operator), truncated, total)
    return head + b',"services":[%b]}' % b",".join(rows)


def service_row(picture: Picture, now: datetime) -> ServiceRow:
    """One service's part, from the manifests as the API server gave them."""
    service = picture.service
    metadata, spec, status = service["metadata"], section(service, "spec"), section(service, "status")
    key_sets = [str(name) for name in section(spec, "access").get("keySets") or ()]
    return ServiceRow(
        namespace=metadata["namespace"],
        name=metadata["name"],
        created=metadata.get("creationTimestamp", ""),
        model=model_name(service),
        uri=str(section(spec, "model").get("uri", "")),
        key_sets=tuple(sorted(key_sets)) or (contract.DEFAULT_KEY_SET,),
        generation=metadata.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        desired=status.get("desiredReplicas", 0),
        replicas=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        autoscaling=_autoscaling(section(spec, "autoscaling"), section(status, "autoscaling")),
        conditions=tuple(_condition(one) for one in status.get("conditions") or ()),
        last_failure=_failure(status.get("lastFailure")),
        unhealthy_nodes=tuple(
            NodeRow(one["name"], one["reason"], one["message"], one["since"])
            for one in status.get("unhealthyNodes") or ()
        ),
        pods_total=len(picture.pods),
        pods=_pods(picture.pods, now),
        events=picture.events,
    )


def _autoscaling(wanted: Manifest, told: Manifest) -> AutoscalingRow | None:
    if not wanted:
        return None
    return AutoscalingRow(
        metric=told.get("metric", ""),
        value=told.get("value", ""),
        target=told.get("target", ""),
        message=told.get("message", ""),
        last_scale_time=told.get("lastScaleTime") or "",
        min_replicas=wanted.get("minReplicas", 1),
        max_replicas=wanted.get("maxReplicas", 0),
    )


def _condition(one: Manifest) -> ConditionRow:
    words = [one.get(name, "") for name in ("type", "status", "reason", "message", "lastTransitionTime")]
    return ConditionRow(*words)


def _failure(one: Manifest | None) -> FailureRow | None:
    if one is None:
        return None
    return FailureRow(one["time"], one["reason"], one["message"], one.get("target", ""))


def _pods(manifests: tuple[Manifest, ...], now: datetime) -> tuple[PodRow, ...]:
    shown = sorted(manifests, key=lambda pod: str(pod["metadata"]["name"]))[:MOST_PODS]
    known = {worker.name: worker for worker in pods_module.workers(shown, now)}
    return tuple(_pod(pod, known.get(pod["metadata"]["name"])) for pod in shown)


def _pod(pod: Manifest, worker: pods_module.Worker | None) -> PodRow:
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    return PodRow(
        name=metadata["name"],
        node=pod["spec"].get("nodeName", ""),
        address=status.get("podIP", ""),
        ready=worker is not None and worker.ready,
        restarts=sum(one.get("restartCount", 0) for one in status.get("containerStatuses") or ()),
        revision=labels.get(LABEL_REVISION, ""),
        group=labels.get(contract.LABEL_GROUP, ""),
        created=metadata.get("creationTimestamp", ""),
        step=_step(pod, worker),
    )


def _step(pod: Manifest, worker: pods_module.Worker | None) -> str:
    if worker is None:
        since = pod["metadata"].get("deletionTimestamp")
        return f"is on its way out until {since}" if since else "has ended"
    if worker.trouble:
        return f"is broken: {worker.trouble.reason}: {worker.trouble.message}"
    return "" if worker.ready else worker.step
