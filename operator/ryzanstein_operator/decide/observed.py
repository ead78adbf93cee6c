"""What the cluster showed at one moment, all that a decision may look at. Built by `cluster/observe`, never here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.sizing import Decision


@dataclass(frozen=True, order=True)
class Ref:
    """Which object: enough to read, apply or delete it. Match an object that lives by its UID besides."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The reference to a manifest that has apiVersion, kind, and metadata.name."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Demand:
    """Requests for one service that no replica takes. waiting: how many, at all gateways together. spoken: an Event
    has told of them already."""

    waiting: int
    spoken: bool = False


@dataclass(frozen=True)
class ReplicaView:
    """How one gateway finds one replica that it would not send requests to.

    address: of its pod, without a port. state: Unreachable, Refused, Lagging, NotReady or Draining. reason: its words.
    seconds: for how long. accelerator_fault: what the replica itself says of its accelerator; empty where all is well.
    """

    address: str
    state: str
    reason: str = ""
    seconds: float = 0.0
    accelerator_fault: str = ""


@dataclass(frozen=True)
class ServiceView:
    """One gateway's view of one service. sound: how many replicas it would send requests to; replicas: the others.

    in_flight: requests that replicas work on for it; waiting: those that it holds; idle_seconds: since there was one of
    either. None where it does not say, as one of an older version.
    """

    sender: str
    sound: int
    replicas: tuple[ReplicaView, ...] = ()
    in_flight: int | None = None
    waiting: int | None = None
    idle_seconds: float | None = None


@dataclass(frozen=True)
class NodeVerdict:
    """A node that cannot be counted on.

    reason: NodeNotReady, NodeUnreachable or AcceleratorFault; message: the cause in words, the same as long as it is
    the same cause. lost: its pods are to be replaced, all of them. shunned: nothing new is to be put there, so it is
    tainted where that is allowed. tainted: our taint has been seen on it. well_since: when it began to look well again.
    """

    node: str
    reason: str
    message: str
    since: datetime
    lost: bool = False
    shunned: bool = False
    tainted: bool = False
    well_since: datetime | None = None


@dataclass(frozen=True)
class Observed:
    """One InferenceService and what belongs to it. All manifests are as the API server returned them.

    children: live objects of the kinds of `desired.names.CHILD_KINDS` in the service's namespace: those labelled
        `ryzanstein.dev/inference-service=NAME`, and also any that bears one of the names we would take, whoever owns
        it (look up directly what a label-selected cache does not show), so that a stranger's object is left alone.
    pods: the worker pods, by the same label, terminating ones included.
    endpoint_slices: those labelled `kubernetes.io/service-name=NAME-workers`.
    services: every InferenceService that claims the same model name, this one included.
    demand: requests that wait at the gateways for a replica; None where none does.
    views: how the gateways see the replicas: of each gateway that has spoken within the last seconds and names this
        service, its last word. Empty where none has.
    lost_nodes: nodes whose pods are to be replaced, with the words that say why (decide/nodes.py). A pod on one of
        them is as good as gone, whatever its own status says.
    nodes: the nodes that cannot be counted on, by name; None as long as nobody has looked.
    decision: the size that spec.autoscaling has come to; None where it is not set, or nobody has decided so far.
    refused: what the API server refused at the last visit and the sentence it gave; empty once it was accepted.
    """

    service: Manifest
    children: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    endpoint_slices: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    demand: Demand | None = None
    views: tuple[ServiceView, ...] = ()
    lost_nodes: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, NodeVerdict] | None = None
    decision: Decision | None = None
    refused: Mapping[Ref, str] = field(default_factory=dict)
