"""How a gateway says that it sees the replicas: the body of contract.VIEWS_PATH, read strictly. Knows the wire form
alone; what follows from it is decided elsewhere."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_worker.contract import SUFFIX_WORKERS

_Name = Annotated[str, Field(min_length=1, max_length=253)]


@dataclass(frozen=True)
class Told:
    """One service in a view: the InferenceService's name, and what the gateway sees of it."""

    namespace: str
    service: str
    view: ServiceView


@dataclass(frozen=True)
class GatewayView:
    """A whole view. sender: one gateway pod."""

    sender: str
    services: tuple[Told, ...]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Replica(_Model):
    address: Annotated[str, Field(max_length=64, pattern=r"^\[?[0-9A-Za-z:.%_-]+\]?$")]
    state: Literal["Unreachable", "Refused", "Lagging", "NotReady", "Draining"]
    reason: Annotated[str, Field(max_length=512)] = ""
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    accelerator_fault: Annotated[str, Field(max_length=512)] = ""


class _Service(_Model):
    namespace: _Name
    service: _Name
    sound: Annotated[int, Field(ge=0, le=1_000_000)]
    replicas: Annotated[tuple[_Replica, ...], Field(strict=False, max_length=10_000)] = ()
    in_flight: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    waiting: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    idle_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class _Message(_Model):
    sender: _Name
    services: Annotated[tuple[_Service, ...], Field(strict=False, max_length=100_000)]


def read_view(body: bytes) -> GatewayView:
    """The view in a body. Raises ValueError with a sentence that names the first fault."""
    try:
        message = _Message.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "The body"
        raise ValueError(f"{place}: {first['msg']}.") from None
    return GatewayView(message.sender, tuple(_told(message.sender, one) for one in message.services))


def _told(sender: str, one: _Service) -> Told:
    replicas = tuple(
        ReplicaView(row.address.strip("[]"), row.state, row.reason, row.seconds, row.accelerator_fault)
        for row in one.replicas
    )
    name = one.service.removesuffix(SUFFIX_WORKERS)
    traffic = (one.in_flight, one.waiting, one.idle_seconds)
    return Told(one.namespace, name, ServiceView(sender, one.sound, replicas, *traffic))
