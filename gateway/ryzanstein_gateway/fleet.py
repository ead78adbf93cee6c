"""What the gateway knows at this moment: routes, endpoints, its own requests in flight, who has failed lately.

Joins the watches' snapshots with the gateway's own observations. Makes no call; the choice itself is balance's.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ryzanstein_gateway.balance import Candidate, Choice, Endpoint, Policy, choose
from ryzanstein_gateway.endpoints import EndpointStore, ServiceKey
from ryzanstein_gateway.prefix import PrefixMemory
from ryzanstein_gateway.routes import ConfigMap, Route, RoutesError, RouteTable, parse_routes

SHUN_SECONDS: Final = 5.0
"""How long an endpoint that refused is avoided. Long enough for its EndpointSlice to change, short for a mistake."""

_log = logging.getLogger(__name__)


class Fleet:
    """Owned by the event loop; `table` and `ready_endpoints` may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = RouteTable()
        self.table_is_stale = False
        self._stores: list[EndpointStore] = []
        self._in_flight: dict[str, int] = {}
        self._shunned_until: dict[str, float] = {}
        self._turns: dict[ServiceKey, itertools.count[int]] = {}
        self._prefixes = PrefixMemory()
        self._clock = clock

    def add_store(self) -> EndpointStore:
        """A store for one more watch of EndpointSlices; watches see different namespaces, so stores never overlap."""
        self._stores.append(EndpointStore())
        return self._stores[-1]

    def endpoints(self, route: Route) -> tuple[Endpoint, ...]:
        """The usable endpoints of a route, leaving ones included."""
        service = (route.namespace, route.service)
        return next((store.by_service[service] for store in self._stores if service in store.by_service), ())

    def ready_endpoints(self, route: Route) -> int:
        """How many endpoints are ready and stay."""
        return sum(not endpoint.leaving for endpoint in self.endpoints(route))

    def pick(self, route: Route, tried: set[str], prefix_keys: Sequence[int] = ()) -> Choice | None:
        """Where to send now, none of `tried`. `prefix_keys`: of the prompt's beginning, where the policy asks for them;
        what is picked is taken to have served them from now on."""
        now = self._clock()
        self._shunned_until = {host: until for host, until in self._shunned_until.items() if until > now}
        untried = [self._candidate(one) for one in self.endpoints(route) if one.host not in tried]
        turns = self._turns.setdefault((route.namespace, route.service), itertools.count())
        prefix = self._prefixes.look_up(prefix_keys, [one.endpoint.host for one in untried])
        choice = choose(untried, Policy.of(route.policy), turn=next(turns), draw=random.random(), prefix=prefix)
        if choice:
            self._prefixes.remember(choice.endpoint.host, prefix_keys)
        return choice

    def _candidate(self, endpoint: Endpoint) -> Candidate:
        tier = 2 if endpoint.leaving else int(endpoint.host in self._shunned_until)
        return Candidate(endpoint, self._in_flight.get(endpoint.host, 0), tier=tier)

    def shun(self, endpoint: Endpoint) -> None:
        """Remember that an endpoint refused a connection or said that it is draining."""
        self._shunned_until[endpoint.host] = self._clock() + SHUN_SECONDS

    @contextmanager
    def in_flight(self, endpoint: Endpoint) -> Iterator[None]:
        """Counts a request at an endpoint for as long as the context lasts."""
        self._in_flight[endpoint.host] = self._in_flight.get(endpoint.host, 0) + 1
        try:
            yield
        finally:
            self._in_flight[endpoint.host] -= 1
            if not self._in_flight[endpoint.host]:
                del self._in_flight[endpoint.host]


class RouteStore:
    """The watch of the one ConfigMap. A table that cannot be read leaves the last good one in force."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def replace(self, objects: Sequence[ConfigMap]) -> None:
        """Take what the list holds: the ConfigMap, or nothing."""
        try:
            self._fleet.table = parse_routes(objects)
            self._fleet.table_is_stale = False
        except RoutesError as error:
            self._fleet.table_is_stale = True
            _log.error("keeping the last good routes: %s", error)

    def upsert(self, item: ConfigMap) -> None:
        """Take the ConfigMap as it is now."""
        self.replace([item])

    def remove(self, item: ConfigMap) -> None:
        """The operator never deletes it, so a deletion is a mistake or an uninstall: serve on what is known."""
        self._fleet.table_is_stale = True
        _log.error("the ConfigMap %s is gone: keeping the last good routes", item.metadata.name)
