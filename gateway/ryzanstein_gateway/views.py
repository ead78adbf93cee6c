"""How this gateway sees the replicas of every service, in the words of contract.VIEWS_PATH.

Pure: made from what the fleet holds, the time comes in. Who is listed here would be sent no request as long as another
is sound; and also who was never heard of, neither by a page nor by an answer, and does not answer checks: a gateway
that has just started must not vouch for it.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from ryzanstein_gateway.breaker import Phase
from ryzanstein_gateway.endpoints import ServiceKey
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.vitals import Outcome, Vitals, Why

MOST_BYTES: Final = 1024 * 1024 - 1024
"""Of a message; the operator reads no more than 1 MiB."""
MOST_WORDS: Final = 256
_FEWER: Final = (64, 16, 4, 1, 0)
_AGE: Final = "not moved for"


class State(StrEnum):
    """What is the matter with a replica, the gravest first."""

    UNREACHABLE = "Unreachable"
    """No answer: nothing says that its node is there."""
    REFUSED = "Refused"
    """Its node answers, and nobody listens."""
    NOT_READY = "NotReady"
    LAGGING = "Lagging"
    DRAINING = "Draining"


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica that is not sound. `seconds`: since the last sign of life where it is missing or lags, else for as
    long as it is seen so."""

    address: str
    state: State
    reason: str
    seconds: float
    accelerator_fault: str = ""

    def essence(self) -> tuple[str, ...]:
        """All but the times and the words."""
        return self.address, self.state, self.accelerator_fault


class ServiceView(msgspec.Struct, frozen=True):
    """One service. `service` is the Service that the routes name. Traffic is of all processes of this pod together;
    `idle_seconds`: since a request was last under way or waited, else since the service is known here."""

    namespace: str
    service: str
    sound: int
    replicas: tuple[ReplicaView, ...] = ()
    in_flight: int = 0
    waiting: int = 0
    idle_seconds: float = 0.0


class View(msgspec.Struct, frozen=True):
    """A whole message. `sender` is this process."""

    sender: str
    services: tuple[ServiceView, ...]

    def essence(self) -> tuple[object, ...]:
        """What makes one view another: all but the times, the words and the traffic."""
        return tuple(
            (one.namespace, one.service, one.sound, *(replica.essence() for replica in one.replicas))
            for one in self.services
        )


class Looks:
    """Remembers since when each replica is seen as it is, and when there was last something to do for each service."""

    def __init__(self) -> None:
        self._busy: dict[ServiceKey, float] = {}
        self._busy_before: dict[ServiceKey, float] = {}
        self._since: dict[tuple[ServiceKey, str], tuple[State, float]] = {}
        self._before: dict[tuple[ServiceKey, str], tuple[State, float]] = {}

    def begin(self) -> None:
        """A new look at all services; whoever is in none of them is forgotten with the next."""
        self._before, self._since = self._since, {}
        self._busy_before, self._busy = self._busy, {}

    def service(
        self,
        key: ServiceKey,
        listed: Sequence[ReplicaState],
        unready: Sequence[ReplicaState],
        now: float,
        traffic: Traffic | None = None,
    ) -> ServiceView:
        """One service: those that take requests, of the others who has a fault to tell of, and what goes on for it.
        None: there never was a request."""
        found = [self._replica(key, one, now) for one in listed]
        bad = [one for one in found if one is not None]
        bad += [self._faulty(key, one, now) for one in unready if _fault(one)]
        in_flight, waiting = (traffic.in_flight, traffic.waiting) if traffic else (0, 0)
        return ServiceView(
            *key,
            sound=found.count(None),
            in_flight=in_flight,
            waiting=waiting,
            idle_seconds=self._idle(key, traffic, now),
            replicas=tuple(bad),
        )

    def _idle(self, key: ServiceKey, traffic: Traffic | None, now: float) -> float:
        """A service that is new here was not idle before, whoever else may have served it; nor is one forgotten whose
        process has died."""
        busy = self._busy_before.get(key, now)
        if traffic is not None:
            busy = now if traffic.in_flight or traffic.waiting else max(busy, traffic.busy_at)
        self._busy[key] = busy
        return round(max(0.0, now - busy), 1)

    def _replica(self, key: ServiceKey, one: ReplicaState, now: float) -> ReplicaView | None:
        seen = look(one, now)
        if seen is None:
            return None
        state, reason = seen
        return self._view(key, one, state, reason, now)

    def _faulty(self, key: ServiceKey, one: ReplicaState, now: float) -> ReplicaView:
        return self._view(key, one, State.NOT_READY, _fault(one), now)

    def _view(self, key: ServiceKey, one: ReplicaState, state: State, reason: str, now: float) -> ReplicaView:
        address = one.endpoint.host.strip("[]")
        same = self._before.get((key, address))
        since = same[1] if same is not None and same[0] is state else now
        self._since[key, address] = (state, since)
        status = one.vitals.status
        if status is not None and (state in (State.UNREACHABLE, State.REFUSED) or one.vitals.is_missing()):
            since = one.vitals.told_at
        elif status is not None and state is State.LAGGING:
            since = min(since, one.vitals.told_at - status.beat_age)
        return ReplicaView(address, state, reason[:MOST_WORDS], round(max(0.0, now - since), 1), _fault(one))


def look(one: ReplicaState, now: float) -> tuple[State, str] | None:
    """What is the matter with a replica that takes requests, and a sentence; None where it is sound."""
    status, why = one.vitals.status, one.vitals.why()
    if why is Why.UNREACHABLE or (status is None and _never_heard(one)):
        return _missing(one.vitals)
    if status is not None and why is Why.NOT_READY:
        return State.NOT_READY, _fault(one) or status.reason or "It says that it is not ready."
    if status is not None and why is Why.LAGGING:
        slow = f"Its slowest rank or its server has {_AGE} {status.beat_age:.1f} s."
        return State.LAGGING, slow if status.ready else status.reason or slow
    if why is Why.DRAINING or one.endpoint.leaving or one.shunned_until > now:
        return State.DRAINING, "Its pod ends." if one.endpoint.leaving else "It says that it is draining."
    return _by_answers(one, now)


def encode(view: View, most_bytes: int = MOST_BYTES) -> bytes:
    """The message as JSON; where it would be too long, with fewer replicas each, the gravest kept; counts stay."""
    body = msgspec.json.encode(view)
    for most in _FEWER:
        if len(body) <= most_bytes:
            return body
        body = msgspec.json.encode(View(view.sender, tuple(_cut(one, most) for one in view.services)))
    services = tuple(_cut(one, 0) for one in view.services)
    while len(body) > most_bytes and services:
        services = services[: len(services) * most_bytes // (len(body) + 1)]
        body = msgspec.json.encode(View(view.sender, services))
    return body


def _cut(service: ServiceView, most: int) -> ServiceView:
    if len(service.replicas) <= most:
        return service
    return msgspec.structs.replace(service, replicas=tuple(_gravest_first(service.replicas)[:most]))


def _gravest_first(replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    gravity = list(State)
    return sorted(replicas, key=lambda one: (not one.accelerator_fault, gravity.index(one.state), one.address))


def _missing(vitals: Vitals) -> tuple[State, str]:
    match vitals.last:
        case Outcome.REFUSED:
            return State.REFUSED, "Nobody listens on its health port."
        case Outcome.BROKEN:
            return State.NOT_READY, "Its health page cannot be read."
        case Outcome.FAILED:
            return State.UNREACHABLE, "It does not answer health checks."
    return State.LAGGING, f"Of its last {len(vitals.failed)} health checks {sum(vitals.failed)} went unanswered."


def _never_heard(one: ReplicaState) -> bool:
    """Whether there was never a sign of life. A server without a health page refuses these checks, which is one."""
    return not one.heard and one.vitals.last is Outcome.FAILED and one.vitals.is_missing()


def _by_answers(one: ReplicaState, now: float) -> tuple[State, str] | None:
    if one.breaker.phase(now) is not Phase.CLOSED:
        silent = one.vitals.status is None and one.vitals.last is Outcome.FAILED
        return (State.UNREACHABLE if silent else State.NOT_READY), "Requests to it failed: its circuit breaker is open."
    if one.ejection.until > now:
        return State.LAGGING, "It answers much later, or with more errors, than the others."
    return None


def _fault(one: ReplicaState) -> str:
    status = one.vitals.status
    return status.accelerator_fault[:MOST_WORDS] if status is not None else ""
