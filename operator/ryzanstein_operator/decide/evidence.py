"""What the gateways' views say for and against a node. Pure.

Guards against a false alarm: a gateway that reaches no replica at all is taken for the sick one; every gateway that has
not missed its turn must agree; one replica that gives any sign of life speaks for its whole node; and a replica that
answers late (Lagging) is alive.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_operator.decide.scene import Place, Scene, Seat

UNREACHABLE = "Unreachable"
_SAYS_NOTHING_OF_FOLLOWERS = ("Lagging", "Draining")


@dataclass(frozen=True)
class Sign:
    """What is known of a pod, or of all pods of one node. silent_seconds: for how long all gateways have found it
    unreachable; only where it does not live."""

    alive: bool
    silent_seconds: float = 0.0


@lru_cache(maxsize=2)
def signs(scene: Scene) -> Mapping[str, Sign]:
    """By node: alive if anything on it is, else for how long all of it has been silent. A node where gateways miss
    nothing is not in it."""
    views = _trusted(scene)
    leaders = {(seat.service[0], seat.group): seat for seat in scene.seats if seat.group and seat.leads}
    missed = _missed(scene.seats, leaders, views)
    found: dict[str, Sign] = {}
    for seat in scene.seats:
        if seat.node not in missed:
            continue
        sign = _sign(seat, leaders, views, asks_kubelets=scene.nodes is not None)
        if sign is None:
            continue
        known = found.get(seat.node)
        found[seat.node] = sign if known is None else _both(known, sign)
    return found


@lru_cache(maxsize=2)
def faults(scene: Scene) -> Mapping[str, tuple[tuple[Seat, str], ...]]:
    """By node: the pods that say that their accelerator is bad, by name, with their words. One gateway that repeats it
    is enough: it is the replica's own word. It counts only from a pod that holds one."""
    words: dict[tuple[Place, str], str] = {}
    for service, views in scene.views.items():
        for row in _rows(views):
            if row.accelerator_fault:
                words.setdefault((service, row.address), row.accelerator_fault)
    found: dict[str, tuple[tuple[Seat, str], ...]] = {}
    for seat in sorted(scene.seats, key=lambda one: (one.service, one.name)) if words else ():
        said = next((words[seat.service, ip] for ip in seat.addresses if (seat.service, ip) in words), "")
        if said and seat.accelerated and not seat.ending:
            found[seat.node] = (*found.get(seat.node, ()), (seat, said))
    return found


def _missed(
    seats: Iterable[Seat], leaders: Mapping[Place, Seat], views: Mapping[Place, tuple[ServiceView, ...]]
) -> set[str]:
    """The nodes of pods that a gateway tells of, or their leader: few of many, so only they are looked at closely."""
    told = {(service, row.address) for service, seen in views.items() for row in _rows(seen)}
    heads = ((seat.node, leaders.get((seat.service[0], seat.group), seat)) for seat in seats)
    return {node for node, head in heads if any((head.service, ip) in told for ip in head.addresses)}


def _rows(views: Iterable[ServiceView]) -> Iterable[ReplicaView]:
    return (row for view in views for row in view.replicas)


def _trusted(scene: Scene) -> Mapping[Place, tuple[ServiceView, ...]]:
    """The views without those of gateways that reach nothing at all. Where all are such, they are heard if kubelets can
    be asked too: it may be the only node that is lost."""
    sound: dict[str, int] = {}
    missing: set[str] = set()
    for views in scene.views.values():
        for view in views:
            sound[view.sender] = sound.get(view.sender, 0) + view.sound
            if any(row.state == UNREACHABLE for row in view.replicas):
                missing.add(view.sender)
    blind = {sender for sender in missing if not sound[sender]}
    if not blind or (len(blind) == len(sound) and scene.nodes is not None):
        return scene.views
    return {
        service: tuple(view for view in views if view.sender not in blind) for service, views in scene.views.items()
    }


def _sign(
    seat: Seat,
    leaders: Mapping[Place, Seat],
    views: Mapping[Place, tuple[ServiceView, ...]],
    *,
    asks_kubelets: bool,
) -> Sign | None:
    said = views.get(seat.service, ())
    if seat.ending or not said:
        return None
    if seat.leads:
        return _own_sign(seat, said)
    # Gateways do not see a group's other pods; only their kubelet can say which of them is missing.
    leader = leaders.get((seat.service[0], seat.group))
    return _group_sign(leader, said) if leader is not None and asks_kubelets else None


def _own_sign(seat: Seat, views: tuple[ServiceView, ...]) -> Sign | None:
    rows = [_row(seat, view) for view in views]
    if any(row is not None and row.state != UNREACHABLE for row in rows):
        return Sign(alive=True)
    if None in rows:
        # Sound, or not an endpoint yet: only the former says something.
        return Sign(alive=True) if seat.ready else None
    return Sign(alive=False, silent_seconds=min(row.seconds for row in rows if row is not None))


def _group_sign(leader: Seat, views: tuple[ServiceView, ...]) -> Sign | None:
    rows = [_row(leader, view) for view in views]
    if leader.ending or any(row is not None and row.state in _SAYS_NOTHING_OF_FOLLOWERS for row in rows):
        return None
    if None in rows:
        return Sign(alive=True) if leader.ready else None
    return Sign(alive=False, silent_seconds=min(row.seconds for row in rows if row is not None))


def _row(seat: Seat, view: ServiceView) -> ReplicaView | None:
    return next((row for row in view.replicas if row.address in seat.addresses), None)


def _both(one: Sign, other: Sign) -> Sign:
    if one.alive or other.alive:
        return Sign(alive=True)
    return Sign(alive=False, silent_seconds=min(one.silent_seconds, other.silent_seconds))
