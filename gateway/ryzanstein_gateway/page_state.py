"""What the page shows: what this gateway pod sees of every service, beside what the operator says of it.

Made at most once a second for all who look, in small steps between requests; whoever looks gets the services of the
key's sets and no others. Knows neither HTTP nor keys.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Final

import msgspec

from ryzanstein_gateway.endpoints import ServiceKey
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.overview import Operator, Outline, Overview
from ryzanstein_gateway.recent import WINDOW_SECONDS, counted, quantile
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.views import look
from ryzanstein_worker.contract import DEFAULT_KEY_SET, SUFFIX_WORKERS, VERSION

FRESH_SECONDS: Final = 1.0
SOUND: Final = "Sound"
MOST_REPLICAS: Final = 64
"""Shown of one service, the unsound first; the counts are of all."""
_SERVICES_A_TURN: Final = 32


class Replica(msgspec.Struct, frozen=True):
    """One replica. `state`: Sound, or a word of views.State; `running`, `waiting` (requests) and `kv_cache_percent` as
    its own page says, None where it has none."""

    name: str
    address: str
    state: str
    reason: str = ""
    running: int | None = None
    waiting: int | None = None
    kv_cache_percent: int | None = None


class Seen(msgspec.Struct, frozen=True):
    """One service as this gateway pod sees it; times are milliseconds, of the requests of the last minute."""

    policy: str
    in_flight: int
    waiting: int
    requests_per_second: float
    first_byte_p50_ms: float | None
    first_byte_p95_ms: float | None
    sound: int
    listed: int
    replicas: tuple[Replica, ...]


class Row(msgspec.Struct, frozen=True):
    """One service. `seen`: None where this gateway has no route to it; `told`: as the operator words it."""

    namespace: str
    name: str
    models: tuple[str, ...]
    seen: msgspec.Raw | None
    told: msgspec.Raw | None


class Gateway(msgspec.Struct, frozen=True):
    """Who answers."""

    pod: str
    version: str = VERSION


class Page(msgspec.Struct, frozen=True):
    """A whole answer. `time`: Unix seconds."""

    time: float
    gateway: Gateway
    operator: Operator
    operator_trouble: str
    truncated: bool
    services: list[Row]


class _Service(msgspec.Struct, frozen=True):
    routes: tuple[Route, ...]
    outline: Outline | None
    seen: msgspec.Raw | None
    told: msgspec.Raw | None


class PageState:
    """One for the process."""

    def __init__(
        self,
        fleet: Fleet,
        traffic: Callable[[], Mapping[ServiceKey, Traffic]],
        overview: Callable[[], Awaitable[Overview]],
        pod: str,
    ) -> None:
        self._fleet, self._traffic, self._overview, self._pod = fleet, traffic, overview, pod
        self._lock = asyncio.Lock()
        self._made_at = float("-inf")
        self._answers: dict[frozenset[str] | None, bytes] = {}
        self._services: dict[ServiceKey, _Service] = {}
        self._heard = Overview()

    async def answer(self, key_sets: frozenset[str] | None) -> bytes:
        """The page for a key of these sets, as JSON; None: for a gateway without keys."""
        async with self._lock:
            if time.monotonic() - self._made_at >= FRESH_SECONDS:
                await self._make()
                self._made_at = time.monotonic()
                self._answers.clear()
            found = self._answers.get(key_sets)
            if found is None:
                found = self._answers[key_sets] = msgspec.json.encode(self._page(key_sets))
            return found

    async def _make(self) -> None:
        self._heard = await self._overview()
        traffic, routes = self._traffic(), self._routes()
        services: dict[ServiceKey, _Service] = {}
        for number, (key, listed, _) in enumerate(self._fleet.groups(), 1):
            namespace, name = key[0], key[1].removesuffix(SUFFIX_WORKERS)
            outline, told = self._heard.services.get((namespace, name), (None, None))
            seen = _seen(routes[key][0], traffic.get(key), listed, self._fleet.now())
            services[namespace, name] = _Service(routes[key], outline, msgspec.Raw(msgspec.json.encode(seen)), told)
            if number % _SERVICES_A_TURN == 0:
                await asyncio.sleep(0)
        for place, (outline, told) in self._heard.services.items():
            if place not in services:
                services[place] = _Service((), outline, None, told)
        self._services = services

    def _routes(self) -> dict[ServiceKey, tuple[Route, ...]]:
        found: dict[ServiceKey, tuple[Route, ...]] = {}
        for route in self._fleet.table.by_model.values():
            key = (route.namespace, route.service)
            found[key] = (*found.get(key, ()), route)
        return found

    def _page(self, key_sets: frozenset[str] | None) -> Page:
        rows = [row for key, one in sorted(self._services.items()) if (row := _row(key, one, key_sets)) is not None]
        heard = self._heard
        return Page(time.time(), Gateway(self._pod), heard.operator, heard.trouble, heard.truncated, rows)


def _row(key: ServiceKey, one: _Service, key_sets: Set[str] | None) -> Row | None:
    """A service as a key sees it; None where it may not know of it. The gateway's routes decide, and only of a service
    that has none what the operator says."""
    models = tuple(route.model for route in one.routes if route.allows(key_sets))
    if one.routes and not models:
        return None
    if not one.routes and not _may_know(one.outline, key_sets):
        return None
    return Row(*key, models, one.seen, one.told)


def _may_know(outline: Outline | None, key_sets: Set[str] | None) -> bool:
    if key_sets is None:
        return True
    return outline is not None and not key_sets.isdisjoint(outline.key_sets or (DEFAULT_KEY_SET,))


def _seen(route: Route, traffic: Traffic | None, listed: list[ReplicaState], now: float) -> Seen:
    replicas = sorted((_replica(one, now) for one in listed), key=lambda one: (one.state == SOUND, one.name))
    first_bytes = counted(traffic.first_bytes) if traffic else []
    return Seen(
        policy=route.policy,
        in_flight=traffic.in_flight if traffic else 0,
        waiting=traffic.waiting if traffic else 0,
        requests_per_second=round((traffic.requests if traffic else 0) / WINDOW_SECONDS, 2),
        first_byte_p50_ms=_milliseconds(quantile(first_bytes, 0.5)),
        first_byte_p95_ms=_milliseconds(quantile(first_bytes, 0.95)),
        sound=sum(one.state == SOUND for one in replicas),
        listed=len(replicas),
        replicas=tuple(replicas[:MOST_REPLICAS]),
    )


def _replica(one: ReplicaState, now: float) -> Replica:
    state, reason = look(one, now) or (SOUND, "")
    name, address, status = one.endpoint.pod or one.endpoint.host, one.endpoint.host.strip("[]"), one.vitals.status
    if status is None:
        return Replica(name, address, str(state), reason)
    used = round(100 * status.kv_cache_usage)
    return Replica(name, address, str(state), reason, status.running, status.waiting, used)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)
