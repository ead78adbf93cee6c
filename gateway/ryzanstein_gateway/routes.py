"""The route table: which model is served by which Service, and who may use it.

Knows the ConfigMap that the operator renders; knows no custom resource and makes no call.
"""

import zlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from ryzanstein_gateway.balance import Policy
from ryzanstein_gateway.kube import Meta
from ryzanstein_worker.contract import (
    DEFAULT_KEY_SET,
    HEALTH_PORT,
    ROUTES_COMPRESSED_KEY,
    ROUTES_KEY,
    ROUTES_VERSION,
)


class RoutesError(Exception):
    """The ConfigMap holds no route table that can be used. Carries one sentence."""


LONGEST_TABLE: Final = 64 * 1024 * 1024
"""Bytes, once decompressed: more than a hundred thousand models."""


class ConfigMap(msgspec.Struct, frozen=True, rename="camel"):
    """As much of a ConfigMap as the gateway reads."""

    metadata: Meta
    data: dict[str, str] | None = None
    binary_data: dict[str, bytes] | None = None


class Route(msgspec.Struct, frozen=True, rename="camel"):
    """One model. A row of an older operator lacks fields: each has its default; a newer one's that are not known here
    are passed over.

    Limits are of the whole gateway, all its pods and processes together; None where there is none. Those "per key" are
    of one API key on this model.
    """

    model: str
    namespace: str
    service: str
    port: int
    health_port: int = HEALTH_PORT
    """Where the replicas tell how they are (contract.HEALTH_STATUS)."""
    key_sets: tuple[str, ...] = ()
    """Empty means the key set `default`."""
    max_model_len: int | None = None
    """Tokens of prompt and completion together."""
    policy: str = Policy.ADAPTIVE.value
    """One of balance.Policy; read it with Policy.of, which takes a word that is not known for the default."""
    requests_per_minute: int | None = None
    """Per key."""
    tokens_per_minute: int | None = None
    """Per key; tokens of prompts and completions together."""
    max_concurrent_requests: int | None = None
    """Per key; those that wait included."""
    max_queued_requests: int = 256
    """Of all keys together; requests that wait until a replica has room. 0: none waits, it is refused at once."""
    queue_timeout_seconds: int = 30
    """How long one of them waits before it is refused."""

    def allows(self, key_sets: Set[str] | None) -> bool:
        """Whether a key of these sets may use the model; None is a gateway without authentication."""
        return key_sets is None or not key_sets.isdisjoint(self.key_sets or (DEFAULT_KEY_SET,))


class _RoutesFile(msgspec.Struct, frozen=True):
    version: int
    models: tuple[Route, ...]


_DECODER: Final = msgspec.json.Decoder(_RoutesFile)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every model by its name. One snapshot; a change makes a new table."""

    by_model: Mapping[str, Route] = field(default_factory=dict)

    def find(self, model: str, key_sets: Set[str] | None) -> Route | None:
        """The route of a model; None if there is none or the key may not know of it, which look the same."""
        route = self.by_model.get(model)
        return route if route is not None and route.allows(key_sets) else None

    def visible(self, key_sets: Set[str] | None) -> list[Route]:
        """The routes a key may use, by name."""
        return [route for _, route in sorted(self.by_model.items()) if route.allows(key_sets)]


def parse_routes(config_maps: Iterable[ConfigMap]) -> RouteTable:
    """The table in the ConfigMap, empty where there is none. Raises RoutesError."""
    for config_map in config_maps:
        return _parse(_text(config_map))
    return RouteTable()


def _text(config_map: ConfigMap) -> str | bytes:
    """A large table comes compressed."""
    packed = (config_map.binary_data or {}).get(ROUTES_COMPRESSED_KEY)
    if packed is not None:
        return _decompressed(packed)
    text = (config_map.data or {}).get(ROUTES_KEY)
    if text is None:
        raise RoutesError(f"The ConfigMap has no key {ROUTES_KEY}.")
    return text


def _decompressed(packed: bytes) -> bytes:
    gzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header and checksum
    try:
        text = gzip.decompress(packed, LONGEST_TABLE)
    except zlib.error as error:
        raise RoutesError(f"{ROUTES_COMPRESSED_KEY} cannot be read: {error}.") from error
    if not gzip.eof:
        raise RoutesError(f"{ROUTES_COMPRESSED_KEY} ends early, or holds more than {LONGEST_TABLE} bytes.")
    return text


def _parse(text: str | bytes) -> RouteTable:
    try:
        parsed = _DECODER.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RoutesError(f"{ROUTES_KEY} cannot be read: {error}.") from error
    if parsed.version != ROUTES_VERSION:
        raise RoutesError(f"{ROUTES_KEY} has version {parsed.version}; this gateway reads {ROUTES_VERSION}.")
    by_model: dict[str, Route] = {}
    for route in parsed.models:
        # The operator gives a name to one service only; should two come, the first one keeps it.
        by_model.setdefault(route.model, route)
    return RouteTable(MappingProxyType(by_model))
