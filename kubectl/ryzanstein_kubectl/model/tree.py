"""The tree that `status` shows: service, revision, replica, pod, rank. Frozen values, no manifests."""

from dataclasses import dataclass
from typing import Literal

from ryzanstein_kubectl.model.pages import Load, Rank

Mood = Literal["good", "waiting", "bad", "leaving"]
"""How something is to be looked at: as it should be, on its way, broken, on its way out."""


@dataclass(frozen=True)
class Pod:
    """One pod. state: Ready, Starting, Pending, Terminating, or why it is broken; detail says it in words.

    node_state: why the node cannot be counted on, or Cordoned; empty where it is well or not known.
    ranks: those that run in this pod, as far as the worker says.
    """

    name: str
    state: str
    mood: Mood
    detail: str
    node: str
    node_state: str
    age_seconds: float | None
    restarts: int
    ranks: tuple[Rank, ...] = ()


@dataclass(frozen=True)
class Replica:
    """One copy of the model: a pod, or a group of several. load is None where no worker could be asked."""

    name: str
    group: bool
    ready: bool
    pods: tuple[Pod, ...]
    load: Load | None


@dataclass(frozen=True)
class Revision:
    """The replicas of one revision of the pod template."""

    name: str
    current: bool
    replicas: tuple[Replica, ...]


@dataclass(frozen=True)
class Concern:
    """What is not as it should be: conditions of one reason, what they say, and what to do about it."""

    conditions: tuple[str, ...]
    mood: Mood
    reason: str
    messages: tuple[str, ...]
    remedy: str
    since_seconds: float | None


@dataclass(frozen=True)
class Operation:
    """What the operator is in the middle of."""

    type: str
    step: str
    target: str
    tries: int
    seconds_left: float | None
    message: str


@dataclass(frozen=True)
class Failure:
    """What went wrong last."""

    reason: str
    message: str
    target: str
    seconds_ago: float | None


@dataclass(frozen=True)
class UnhealthyNode:
    """A node that replicas of the service are on, or were until lately, and that the operator does not count on."""

    name: str
    reason: str
    message: str
    since_seconds: float | None


@dataclass(frozen=True)
class Scaling:
    """Between which bounds the size follows the load, and the target that chose it last: what it was, and what it is to
    be kept at; empty where none did."""

    lowest: int
    highest: int
    metric: str
    value: str
    target: str
    message: str


@dataclass(frozen=True)
class Service:
    """One InferenceService and all that runs for it. ready counts replicas, wanted those that there are to be; scaling:
    how that follows the load, if it does."""

    namespace: str
    name: str
    model: str
    uri: str
    url: str
    wanted: int
    scaling: Scaling | None
    ready: int
    age_seconds: float | None
    revisions: tuple[Revision, ...]
    concerns: tuple[Concern, ...]
    unhealthy_nodes: tuple[UnhealthyNode, ...]
    operation: Operation | None
    last_failure: Failure | None

    @property
    def mood(self) -> Mood:
        moods = {concern.mood for concern in self.concerns}
        return "bad" if "bad" in moods else "waiting" if moods else "good"
