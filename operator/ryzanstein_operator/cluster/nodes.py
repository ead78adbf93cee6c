"""The health of nodes from one visit to the next: what is known goes in, the rules of `decide` judge, a Plan comes out.

Knows where each thing comes from; decides nothing. Use within one event loop.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import NODES_VISIT, Cache, Key, key_of
from ryzanstein_operator.cluster.probe import Probe, ask_kubelets
from ryzanstein_operator.cluster.resources import NODES, PODS, SERVICES
from ryzanstein_operator.cluster.views import Views
from ryzanstein_operator.decide.evidence import UNREACHABLE, faults
from ryzanstein_operator.decide.failover import failover, lost_nodes
from ryzanstein_operator.decide.nodes import controls, judge, seeds, suspects
from ryzanstein_operator.decide.observed import NodeVerdict, ServiceView
from ryzanstein_operator.decide.plan import Plan
from ryzanstein_operator.decide.scene import Node, Scene, Seat, Tries, node_of, seat_of
from ryzanstein_operator.settings import Settings

logger = logging.getLogger(__name__)

REFUSED_SECONDS: Final = 300.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class NodeHealth:
    """Holds the verdicts. Those of a life before are found again in statuses and taints."""

    def __init__(
        self,
        cache: Cache,
        views: Views,
        settings: Settings,
        probe: Probe = ask_kubelets,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._cache, self._views, self._settings = cache, views, settings
        self._probe, self._now = probe, now
        self._verdicts: Mapping[str, NodeVerdict] | None = None
        self._tries: Mapping[str, Tries] = {}
        self._taints_from = datetime.min.replace(tzinfo=UTC)
        self._known_seats: dict[tuple[str, str], Seat] = {}
        self._faults: Mapping[str, tuple[tuple[Seat, str], ...]] = {}

    @property
    def verdicts(self) -> Mapping[str, NodeVerdict] | None:
        """The nodes that cannot be counted on; None before the first visit."""
        return self._verdicts

    def lost(self, service: Key) -> dict[str, str]:
        """The nodes whose pods are as good as gone for a service, and why."""
        return lost_nodes(self._verdicts or {}, self._faults, (service.namespace, service.name))

    def taints_refused(self) -> None:
        """The API server does not let us taint: do without for a while, and say of nodes what is then true."""
        self._taints_from = self._now() + timedelta(seconds=REFUSED_SECONDS)
        logger.warning("Nodes may not be tainted; set nodeHealth.taint in the chart, here or in the ClusterRole")

    async def visit(self) -> tuple[Plan, frozenset[Key]]:
        """What is to be done, and the services for which something has changed."""
        scene = await self._look()
        if scene is None:
            self._verdicts = {}
            return Plan(), frozenset()
        verdicts, said = judge(scene), faults(scene)
        result = failover(scene, verdicts)
        changed = self._changed(scene, verdicts, said)
        self._verdicts, self._tries, self._faults = verdicts, result.tries, said
        return result.plan, changed

    async def _look(self) -> Scene | None:
        """The scene, with what kubelets answered where some had to be asked."""
        scene = self._scene()
        doubted = suspects(scene) if scene is not None else ()
        if scene is None or scene.nodes is None or not doubted:
            return scene
        asked = (*doubted, *controls(scene, doubted))
        kubelets = await self._probe([scene.nodes[name] for name in asked])
        later = self._scene()  # seconds have passed: what was silent may have spoken
        return None if later is None else replace(later, kubelets=kubelets)

    def _scene(self) -> Scene | None:
        """None while there is nothing to judge, which is nearly always so: then no pod is looked at."""
        nodes, views, now = self._nodes(), self._views.punctual(), self._now()
        before = self._verdicts
        if before is None:
            before = seeds(self._cache.all(SERVICES), nodes or {}, now)
        if not before and _calm(nodes or {}, views):
            return None
        return Scene(
            nodes=nodes,
            seats=self._seats(),
            views={(key.namespace, key.name): seen for key, seen in views.items()},
            before=before,
            taints=self._settings.node_taints and now >= self._taints_from,
            now=now,
            tries=self._tries,
        )

    def _seats(self) -> tuple[Seat, ...]:
        """Those of all pods; of a pod that is as it was, the one of before: there may be thousands, each second."""
        known, self._known_seats = self._known_seats, {}
        for pod in self._cache.all(PODS):
            if pod["spec"].get("nodeName"):
                metadata = pod["metadata"]
                state = (metadata["uid"], metadata["resourceVersion"])
                self._known_seats[state] = known.get(state) or seat_of(pod)
        return tuple(self._known_seats.values())

    def _nodes(self) -> Mapping[str, Node] | None:
        if not self._cache.knows_nodes:
            return None
        return {node.name: node for node in map(node_of, self._cache.of(NODES, NODES_VISIT))}

    def _changed(
        self,
        scene: Scene,
        verdicts: Mapping[str, NodeVerdict],
        said: Mapping[str, tuple[tuple[Seat, str], ...]],
    ) -> frozenset[Key]:
        """The services that have, or had, to do with a node about which something else is to be told now."""
        before = self._verdicts if self._verdicts is not None else {}
        either = before.keys() | verdicts.keys() | self._faults.keys() | said.keys()
        changed = {
            name
            for name in either
            if _told(before.get(name)) != _told(verdicts.get(name)) or self._faults.get(name) != said.get(name)
        }
        found = {Key(*seat.service) for seat in scene.seats if seat.node in changed}
        found |= {key_of(service) for service in self._cache.all(SERVICES) if _names(service) & changed}
        return frozenset(found)


def _calm(nodes: Mapping[str, Node], views: Mapping[Key, tuple[ServiceView, ...]]) -> bool:
    rows = (row for seen in views.values() for view in seen for row in view.replicas)
    quiet = all(row.state != UNREACHABLE and not row.accelerator_fault for row in rows)
    return quiet and all(node.well and not node.taint for node in nodes.values())


def _told(verdict: NodeVerdict | None) -> object:
    return verdict and (verdict.reason, verdict.message, verdict.lost, verdict.shunned)


def _names(service: Manifest) -> set[str]:
    return {one["name"] for one in service.get("status", {}).get("unhealthyNodes") or ()}
