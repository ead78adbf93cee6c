"""The replicas behind each Service, from EndpointSlices.

Knows EndpointSlices and their rules (conditions, doubles across slices, address families); makes no call and
knows nothing of requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.kube import Meta

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
_FAMILIES: Final = ("IPv4", "IPv6")

ServiceKey = tuple[str, str]
"""Namespace and name of a Service."""


class Conditions(msgspec.Struct, frozen=True):
    """A missing condition means "unknown"; the API says to read ready and serving as true then."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(msgspec.Struct, frozen=True):
    """The pod behind an endpoint."""

    uid: str = ""
    name: str = ""


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of a slice: consumers use the first address."""

    addresses: tuple[str, ...]
    conditions: Conditions = Conditions()
    target_ref: TargetRef | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """As much of an EndpointSlice as the gateway reads."""

    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] | None = None

    @property
    def service(self) -> ServiceKey:
        """The Service it belongs to; the name is empty for a slice that belongs to none."""
        return self.metadata.namespace, (self.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")


def merge_slices(slices: Iterable[EndpointSlice]) -> tuple[Endpoint, ...]:
    """The usable endpoints of one Service, each pod once, ordered by host.

    A pod can stand in two slices while the controller moves it, and in one of each family on a dual-stack
    cluster: the better condition wins, then IPv4.
    """
    best: dict[str, tuple[bool, int, Endpoint]] = {}
    for piece in slices:
        if piece.address_type not in _FAMILIES:
            continue  # FQDN: the gateway resolves no name that it is handed
        family = _FAMILIES.index(piece.address_type)
        for entry in piece.endpoints or ():
            endpoint = _usable(entry, family)
            if endpoint is None:
                continue
            pod = (entry.target_ref.uid if entry.target_ref else "") or endpoint.host
            rank = (endpoint.leaving, family, endpoint)
            if pod not in best or rank[:2] < best[pod][:2]:
                best[pod] = rank
    return tuple(sorted((endpoint for _, _, endpoint in best.values()), key=lambda one: one.host))


def _usable(entry: SliceEndpoint, family: int) -> Endpoint | None:
    conditions = entry.conditions
    leaving = bool(conditions.terminating)
    alive = (conditions.serving if leaving else conditions.ready) is not False
    if not entry.addresses or not alive:
        return None
    address = entry.addresses[0]
    return Endpoint(
        host=f"[{address}]" if family else address,
        pod=entry.target_ref.name if entry.target_ref else "",
        leaving=leaving,
    )


class EndpointStore:
    """All slices of one watch; keeps `by_service` up to date. Read from any thread: each change swaps the mapping."""

    def __init__(self) -> None:
        self._slices: dict[tuple[str, str], EndpointSlice] = {}
        self.by_service: Mapping[ServiceKey, tuple[Endpoint, ...]] = MappingProxyType({})

    def replace(self, objects: Sequence[EndpointSlice]) -> None:
        """Take a whole list as the truth."""
        self._slices = {(one.metadata.namespace, one.metadata.name): one for one in objects}
        self._publish({one.service for one in objects}, {})

    def upsert(self, item: EndpointSlice) -> None:
        """Take one slice that was added or changed."""
        key = (item.metadata.namespace, item.metadata.name)
        before = self._slices.get(key)
        self._slices[key] = item
        self._publish({item.service} | ({before.service} if before else set()), self.by_service)

    def remove(self, item: EndpointSlice) -> None:
        """Forget one slice."""
        before = self._slices.pop((item.metadata.namespace, item.metadata.name), None)
        if before is not None:
            self._publish({before.service}, self.by_service)

    def _publish(self, changed: set[ServiceKey], base: Mapping[ServiceKey, tuple[Endpoint, ...]]) -> None:
        pieces: dict[ServiceKey, list[EndpointSlice]] = {service: [] for service in changed}
        for piece in self._slices.values():
            if piece.service in pieces:
                pieces[piece.service].append(piece)
        merged = {service: merge_slices(parts) for service, parts in pieces.items() if parts}
        kept = {service: endpoints for service, endpoints in base.items() if service not in changed}
        self.by_service = MappingProxyType(kept | merged)
