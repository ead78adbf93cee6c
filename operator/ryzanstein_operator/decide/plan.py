"""What is to be done, as data. A Plan can be printed, compared in a test, and carried out by `cluster/apply`."""

from dataclasses import dataclass
from typing import Literal

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Ref


@dataclass(frozen=True)
class Apply:
    """Server-side apply with our field manager, conflicts forced.

    `uid` is the UID of the live object this was decided on, or None to create; put it into the request's
    `metadata.uid`, so that the write fails if the object has been replaced meanwhile.
    """

    manifest: Manifest
    uid: str | None
    why: str
    after: Ref | None = None
    """Not tried where the action on that object has just failed."""

    @property
    def ref(self) -> Ref:
        return Ref.of(self.manifest)

    def __str__(self) -> str:
        return f"{'apply' if self.uid else 'create'} {self.ref}: {self.why}"


@dataclass(frozen=True)
class CreateKey:
    """Creates a Secret with a random value under `groups.KEY`; one of that name that is there already is as good.

    The value is drawn where the action is carried out: a Plan may be printed and logged.
    """

    manifest: Manifest
    why: str

    @property
    def ref(self) -> Ref:
        return Ref.of(self.manifest)

    def __str__(self) -> str:
        return f"create {self.ref} with a random key, unless it exists: {self.why}"


@dataclass(frozen=True)
class Delete:
    """Deletion with the UID as precondition.

    foreground: the object stays, with a deletion timestamp, until all that it owns is gone.
    """

    ref: Ref
    uid: str
    why: str
    foreground: bool = False

    def __str__(self) -> str:
        return f"delete {self.ref}: {self.why}"


@dataclass(frozen=True)
class PatchStatus:
    """Server-side apply of the whole status on the status subresource of the service.

    resource_version: of the object that this was decided on. The API server does not compare UIDs on this subresource
    of a custom resource: without it, a service that has been made anew would bear its former life's status.
    """

    ref: Ref
    uid: str | None
    status: Manifest
    why: str
    resource_version: str | None = None

    def __str__(self) -> str:
        return f"set the status of {self.ref}: {self.why}"


@dataclass(frozen=True)
class PatchTaints:
    """Replaces the whole list of a node's taints; the API server refuses it if the node has changed meanwhile."""

    ref: Ref
    resource_version: str
    taints: tuple[Manifest, ...]
    why: str

    def __str__(self) -> str:
        return f"set the taints of {self.ref}: {self.why}"


@dataclass(frozen=True)
class EmitEvent:
    """A Kubernetes Event about the service."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str

    def __str__(self) -> str:
        return f"emit {self.type} event {self.reason}: {self.message}"


Action = Apply | CreateKey | Delete | PatchTaints | PatchStatus | EmitEvent


@dataclass(frozen=True)
class Plan:
    """Actions in the order to carry them out. One that fails keeps only those from being tried that come `after` it.

    again_after: seconds until time itself may change what is to be done; None where only an event can.
    """

    actions: tuple[Action, ...] = ()
    again_after: float | None = None

    @property
    def details(self) -> tuple[str, ...]:
        """Each action in words, for the log and for `plan`."""
        return tuple(str(action) for action in self.actions)

    def contains_actions(self) -> bool:
        return bool(self.actions)
