"""What the gateway knows at this moment: routes, endpoints, and the state of each replica.

Joins the watches' snapshots with the gateway's own observations. Makes no call; the choice itself is balance's.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ryzanstein_gateway.balance import Candidate, Choice, Endpoint, Policy, choose
from ryzanstein_gateway.endpoints import EndpointStore, ServiceKey
from ryzanstein_gateway.prefix import PrefixMemory
from ryzanstein_gateway.replica_state import Attempt, ReplicaState, eject_outliers
from ryzanstein_gateway.routes import ConfigMap, Route, RoutesError, RouteTable, parse_routes
from ryzanstein_gateway.vitals import Status
from ryzanstein_worker.contract import SUFFIX_GROUP, SUFFIX_WORKERS


@dataclass(frozen=True, slots=True)
class Standing:
    """How one replica stands, for metrics. `against` is one word, empty where it is sound."""

    model: str
    endpoint: str
    against: str
    breaker: str


_log = logging.getLogger(__name__)


class Fleet:
    """Owned by the event loop; `table`, `ready_endpoints` and `standings` may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = RouteTable()
        self.table_is_stale = False
        self._stores: list[EndpointStore] = []
        self._replicas: dict[str, ReplicaState] = {}
        self._unready: dict[str, ReplicaState] = {}
        self._unready_of: dict[ServiceKey, list[ReplicaState]] = {}
        self._prefixes = PrefixMemory()
        self._turns: dict[ServiceKey, itertools.count[int]] = {}
        self._clock = clock

    def now(self) -> float:
        """The clock that the replicas' states go by, in seconds."""
        return self._clock()

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

    def replica(self, endpoint: Endpoint, route: Route) -> ReplicaState:
        """What is known of a replica. An address that has gone to another pod begins anew."""
        known = self._replicas.get(endpoint.host)
        if known is None or known.endpoint.pod != endpoint.pod:
            self._prefixes.forget(endpoint.host)
            known = ReplicaState(endpoint, (route.namespace, route.service), route.health_port, self._clock)
            self._replicas[endpoint.host] = known
        known.endpoint, known.health_port = endpoint, route.health_port
        return known

    def candidates(self, route: Route) -> list[Candidate]:
        """Every replica of a route as it stands now."""
        now = self._clock()
        return [self.replica(one, route).candidate(now) for one in self.endpoints(route)]

    def pick(self, route: Route, tried: Container[str] = (), prefix_keys: Sequence[int] = ()) -> Choice | None:
        """Where to send now, none of `tried`. `prefix_keys`: of the prompt's beginning, where the policy asks for them;
        what is picked is taken to have served them from now on."""
        candidates = [one for one in self.candidates(route) if one.endpoint.host not in tried]
        turns = self._turns.setdefault((route.namespace, route.service), itertools.count())
        choice = choose(
            candidates,
            Policy.of(route.policy),
            turn=next(turns),
            draw=random.random(),
            prefix=self._prefixes.look_up(prefix_keys, [one.endpoint.host for one in candidates]),
        )
        if choice:
            self._prefixes.remember(choice.endpoint.host, prefix_keys)
        return choice

    @contextmanager
    def attempt(self, endpoint: Endpoint, route: Route) -> Iterator[tuple[ReplicaState, Attempt]]:
        """A request at an endpoint, counted there for as long as the context lasts."""
        replica = self.replica(endpoint, route)
        attempt = replica.begin()
        try:
            yield replica, attempt
        finally:
            replica.attempts.discard(attempt)

    def in_flight(self) -> int:
        """Requests at replicas, of all models."""
        return sum(len(replica.attempts) for replica in self._replicas.values())

    def to_check(self) -> list[ReplicaState]:
        """Every replica that is listed or still has a request. Forgets the others."""
        self._follow_unready()
        listed = {one.endpoint.host for group in self._groups().values() for one in group}
        for host in [host for host, one in self._replicas.items() if host not in listed and not one.attempts]:
            del self._replicas[host]
            self._prefixes.forget(host)
        return [*self._replicas.values()]

    def unready_to_check(self) -> list[ReplicaState]:
        """Every replica that takes no requests now."""
        self._follow_unready()
        return [*self._unready.values()]

    def told(self, replica: ReplicaState, status: Status) -> None:
        """A replica's page was read. One that has started anew has an empty cache."""
        if replica.told(status):
            self._prefixes.forget(replica.endpoint.host)

    def eject_outliers(self) -> int:
        """Compare the replicas of each model with each other; how many were ejected."""
        now = self._clock()
        return sum(eject_outliers(group, now) for group in self._groups().values())

    def give_up_stalled(self) -> int:
        """End the wait for replicas that show no sign of life; how many requests that were."""
        now = self._clock()
        sound = {service for service, group in self._groups().items() if not all(one.against(now) for one in group)}
        return sum(one.give_up_stalled(now, alternative=one.service in sound) for one in [*self._replicas.values()])

    def standings(self) -> list[Standing]:
        """Each endpoint of each model as it stands."""
        now = self._clock()
        return [
            Standing(route.model, endpoint.pod or endpoint.host, one.against(now), one.breaker.phase(now).value)
            for route in self.table.by_model.values()
            for endpoint in self.endpoints(route)
            if (one := self._replicas.get(endpoint.host)) is not None
        ]

    def groups(self) -> Iterator[tuple[ServiceKey, list[ReplicaState], list[ReplicaState]]]:
        """Each service with its listed replicas, and with those that take no requests."""
        self._follow_unready()
        seen: set[ServiceKey] = set()
        for route in self.table.by_model.values():
            service = (route.namespace, route.service)
            if service not in seen:
                seen.add(service)
                listed = [self.replica(one, route) for one in self.endpoints(route)]
                yield service, listed, self._unready_of.get(service, [])

    def _follow_unready(self) -> None:
        """Know who takes no requests now: with its page of before, and nothing else that was held for or against it."""
        before, self._unready, self._unready_of = self._unready, {}, {}
        for route in self.table.by_model.values():
            service = (route.namespace, route.service)
            for endpoint in self._unready_endpoints(service) if service not in self._unready_of else ():
                known = before.get(endpoint.host) or self._replicas.get(endpoint.host)
                now = ReplicaState(endpoint, service, route.health_port, self._clock, ready=False)
                if known is not None and known.endpoint.pod == endpoint.pod:
                    now.vitals = known.vitals
                self._unready[endpoint.host] = now
                self._unready_of.setdefault(service, []).append(now)

    def _unready_endpoints(self, service: ServiceKey) -> Iterable[Endpoint]:
        """The pods of a service that take no requests: not ready, or of a group and not its first."""
        namespace, name = service
        group = (namespace, name.removesuffix(SUFFIX_WORKERS) + SUFFIX_GROUP)
        found: dict[str, Endpoint] = {}
        for store in self._stores:
            for one in (*store.unready.get(service, ()), *store.by_service.get(group, ())):
                found.setdefault(one.host, one)
        if found:
            for store in self._stores:
                for one in store.by_service.get(service, ()):
                    found.pop(one.host, None)
        return found.values()

    def _groups(self) -> dict[ServiceKey, list[ReplicaState]]:
        """The listed replicas of each service."""
        return {
            (route.namespace, route.service): [self.replica(one, route) for one in self.endpoints(route)]
            for route in self.table.by_model.values()
        }


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
