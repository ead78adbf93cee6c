"""How gateways see the replicas, for as long as they go on saying it. Holds one view a gateway; makes no call.

A gateway speaks at once when something changes and every four seconds besides. One that is silent for longer may sit
on a lost node itself: what it said last stays a view for a while, but is no witness for or against a node.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_operator.decide.scene import alike

FRESH_SECONDS: Final = 10.0
PUNCTUAL_SECONDS: Final = 5.5
"""A gateway's four seconds, and time for the message."""
MOST_SENDERS: Final = 256


@dataclass
class _Sender:
    at: float = 0.0
    services: dict[Key, ServiceView] = field(default_factory=dict)


class Views:
    """Use within one event loop. Any operator process keeps them, so that one that takes the lead knows at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._senders: dict[str, _Sender] = {}
        self._of: dict[Key, set[str]] = defaultdict(set)

    def tell(self, sender: str, told: Iterable[tuple[Key, ServiceView]]) -> set[Key]:
        """The whole view of one gateway. Gives the services that it sees otherwise than before; times alone are no
        such news."""
        if sender not in self._senders and len(self._senders) >= MOST_SENDERS:
            return set()
        before = self._senders.get(sender, _Sender()).services
        services = {key: _steady(view, before.get(key)) for key, view in told}
        self._senders[sender] = _Sender(self._clock(), services)
        for key in before.keys() - services.keys():
            self._of[key].discard(sender)
        for key in services:
            self._of[key].add(sender)
        either = before.keys() | services.keys()
        return {key for key in either if _essence(before.get(key)) != _essence(services.get(key))}

    def heard(self) -> int:
        """How many gateways have spoken within FRESH_SECONDS."""
        oldest = self._clock() - FRESH_SECONDS
        return sum(1 for sender in self._senders.values() if sender.at > oldest)

    def of(self, service: Key) -> tuple[ServiceView, ...]:
        """What fresh gateways see of one service, by sender; times counted up to now."""
        return self._views(service, FRESH_SECONDS)

    def punctual(self) -> dict[Key, tuple[ServiceView, ...]]:
        """What those gateways see that have not missed their turn, of all services."""
        found = {key: self._views(key, PUNCTUAL_SECONDS) for key, senders in self._of.items() if senders}
        return {key: views for key, views in found.items() if views}

    def idle_seconds(self, service: Key) -> float | None:
        """For how long no gateway has had a request for it; None unless each one that is known has just said so."""
        oldest, least = self._clock() - PUNCTUAL_SECONDS, None
        for sender in self._senders.values():
            view = sender.services.get(service)
            if sender.at <= oldest or view is None or view.idle_seconds is None:
                return None
            busy = bool(view.in_flight or view.waiting)
            idle = 0.0 if busy else view.idle_seconds
            least = idle if least is None else min(least, idle)
        return least

    def forget(self) -> set[Key]:
        """Drop who has been silent for too long. Gives the services that were in those views."""
        oldest = self._clock() - FRESH_SECONDS
        gone = [name for name, sender in self._senders.items() if sender.at <= oldest]
        lost: set[Key] = set()
        for name in gone:
            lost |= self._senders.pop(name).services.keys()
            for senders in self._of.values():
                senders.discard(name)
        self._of = defaultdict(set, {key: senders for key, senders in self._of.items() if senders})
        return lost

    def _views(self, service: Key, seconds: float) -> tuple[ServiceView, ...]:
        now, found = self._clock(), []
        for name in sorted(self._of.get(service, ())):
            sender = self._senders[name]
            if now - sender.at < seconds:
                found.append(_aged(sender.services[service], now - sender.at))
        return tuple(found)


def _steady(view: ServiceView, before: ServiceView | None) -> ServiceView:
    """With the words of before where only their numbers differ: a status must not change with every message."""
    known = {(row.address, row.state): row.reason for row in before.replicas} if before else {}
    if not known:
        return view
    rows = (replace(row, reason=_same_words(row.reason, known.get((row.address, row.state)))) for row in view.replicas)
    return replace(view, replicas=tuple(rows))


def _same_words(new: str, old: str | None) -> str:
    return old if old is not None and alike(old, new) else new


def _essence(view: ServiceView | None) -> object:
    if view is None:
        return None
    return view.sound, {(row.address, row.state, row.reason, row.accelerator_fault) for row in view.replicas}


def _aged(view: ServiceView, seconds: float) -> ServiceView:
    if not view.replicas:
        return view
    return replace(view, replicas=tuple(_later(row, seconds) for row in view.replicas))


def _later(row: ReplicaView, seconds: float) -> ReplicaView:
    return replace(row, seconds=row.seconds + seconds)
