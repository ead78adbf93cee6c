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


def unready_endpoints(slices: Iterable[EndpointSlice], usable: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The pods of one Service that take no requests, each once: they start, end or fail their probe."""
    known = {one.host for one in usable}
    found: dict[str, Endpoint] = {}
    for piece in slices:
        if piece.address_type not in _FAMILIES:
            continue
        for entry in piece.endpoints or ():
            host = _host(entry, _FAMILIES.index(piece.address_type)) if entry.addresses else ""
            pod = (entry.target_ref.uid if entry.target_ref else "") or host
            if host and host not in known:
                found.setdefault(pod, Endpoint(host, entry.target_ref.name if entry.target_ref else ""))
    return tuple(sorted(found.values(), key=lambda one: one.host))


def _usable(entry: SliceEndpoint, family: int) -> Endpoint | None:
    conditions = entry.conditions
    leaving = bool(conditions.terminating)
    alive = (conditions.serving if leaving else conditions.ready) is not False
    if not entry.addresses or not alive:
        return None
    return Endpoint(host=_host(entry, family), pod=entry.target_ref.name if entry.target_ref else "", leaving=leaving)


def _host(entry: SliceEndpoint, family: int) -> str:
    return f"[{entry.addresses[0]}]" if family else entry.addresses[0]


class EndpointStore:
    """All slices of one watch; keeps `by_service` (those that take requests) and `unready` (the others) up to date.
    Read from any thread: each change swaps the mappings."""

    def __init__(self) -> None:
        self._slices: dict[tuple[str, str], EndpointSlice] = {}
        self.by_service: Mapping[ServiceKey, tuple[Endpoint, ...]] = MappingProxyType({})
        self.unready: Mapping[ServiceKey, tuple[Endpoint, ...]] = MappingProxyType({})

    def replace(self, objects: Sequence[EndpointSlice]) -> None:
        """Take a whole list as the truth."""
        before = {one.service for one in self._slices.values()}
        self._slices = {(one.metadata.namespace, one.metadata.name): one for one in objects}
        self._publish(before | {one.service for one in objects})

    def upsert(self, item: EndpointSlice) -> None:
        """Take one slice that was added or changed."""
        key = (item.metadata.namespace, item.metadata.name)
        before = self._slices.get(key)
        self._slices[key] = item
        self._publish({item.service} | ({before.service} if before else set()))

    def remove(self, item: EndpointSlice) -> None:
        """Forget one slice."""
        before = self._slices.pop((item.metadata.namespace, item.metadata.name), None)
        if before is not None:
            self._publish({before.service})

    def _publish(self, changed: set[ServiceKey]) -> None:
        pieces: dict[ServiceKey, list[EndpointSlice]] = {service: [] for service in changed}
        for piece in self._slices.values():
            if piece.service in pieces:
                pieces[piece.service].append(piece)
        usable = {service: merge_slices(parts) for service, parts in pieces.items() if parts}
        unready = {service: unready_endpoints(pieces[service], known) for service, known in usable.items()}
        self.by_service = _changed(self.by_service, changed, usable)
        self.unready = _changed(self.unready, changed, {service: found for service, found in unready.items() if found})


def _changed(
    before: Mapping[ServiceKey, tuple[Endpoint, ...]],
    changed: set[ServiceKey],
    to: Mapping[ServiceKey, tuple[Endpoint, ...]],
) -> Mapping[ServiceKey, tuple[Endpoint, ...]]:
    return MappingProxyType({service: ends for service, ends in before.items() if service not in changed} | dict(to))
