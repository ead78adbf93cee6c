"""From manifests and views to verdicts over several visits: who is asked, what is done, who hears of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from node_builders import NOW, node_manifest
from operator_builders import SETTINGS, ready_pod, service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import Cache, Key
from ryzanstein_operator.cluster.nodes import REFUSED_SECONDS, NodeHealth
from ryzanstein_operator.cluster.views import Views
from ryzanstein_operator.decide.observed import ReplicaView, ServiceView
from ryzanstein_operator.decide.plan import Delete, PatchTaints
from ryzanstein_operator.decide.scene import Node

GPU = "nvidia.com/gpu"
CHAT, OTHER = Key("team", "chat"), Key("team", "other")


class World:
    """Three nodes, `chat` with a pod on each of two, `other` with one on the third; time stands still."""

    def __init__(self, *, knows_nodes: bool = True) -> None:
        self.seconds = 0.0
        self.silent: set[str] = set()
        self.asked: list[list[str]] = []
        self.cache, self.views = Cache(), Views(lambda: self.seconds)
        self.cache.knows_nodes = knows_nodes
        self.version = 0
        live, other = service("chat", accelerator=GPU), service("other", accelerator=GPU)
        for manifest in (live, other, *(node_manifest(name) for name in ("node-1", "node-2", "node-3"))):
            self.put(manifest)
        self.pod(live, "chat-a", "node-1", "10.0.0.1")
        self.pod(live, "chat-b", "node-2", "10.0.0.2")
        self.pod(other, "other-a", "node-3", "10.0.0.3")
        self.health = self.begin()

    def begin(self) -> NodeHealth:
        return NodeHealth(self.cache, self.views, SETTINGS, self.ask, self.now)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    async def ask(self, nodes: Iterable[Node]) -> Mapping[str, bool]:
        names = [node.name for node in nodes]
        self.asked.append(names)
        return {name: name not in self.silent for name in names}

    def put(self, manifest: Manifest) -> None:
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)
        self.cache.put(manifest)

    def pod(self, live: Manifest, name: str, where: str, address: str) -> None:
        made = ready_pod(live, name, node=where)
        made["status"]["podIP"] = address
        self.put(made)

    def see(self, *rows: ReplicaView, sound: int = 1) -> None:
        self.views.tell("g", [(CHAT, ServiceView("g", sound, rows)), (OTHER, ServiceView("g", 1))])

    async def visit(self) -> tuple[list[str], set[Key]]:
        plan, changed = await self.health.visit()
        return [str(action.ref.name) for action in plan.actions if isinstance(action, Delete)], set(changed)


SILENT = ReplicaView("10.0.0.1", "Unreachable", "It does not answer.", 2.5)
BAD = ReplicaView("10.0.0.1", "NotReady", "", 0.0, "XID 79")


async def test_while_all_is_well_nobody_is_asked_and_nothing_is_done() -> None:
    world = World()
    assert world.health.verdicts is None, "not looked yet"
    world.see()
    assert await world.visit() == ([], set())
    assert world.health.verdicts == {}
    assert world.asked == []


async def test_a_node_that_dies_is_doubted_then_given_up_and_those_concerned_hear_of_it() -> None:
    world = World()
    world.see(SILENT)
    world.silent = {"node-1"}
    assert await world.visit() == ([], set())
    assert world.asked == [["node-1", "node-2", "node-3"]]
    world.seconds = 1.0
    assert await world.visit() == (["chat-a"], {CHAT})
    assert world.health.lost(CHAT).keys() == {"node-1"}
    world.seconds = 2.0
    assert (await world.visit())[0] == [], "once"


async def test_a_replica_that_answers_while_its_kubelet_is_asked_ends_the_matter() -> None:
    world = World()
    world.see(ReplicaView("10.0.0.1", "Unreachable", "", 60.0))

    async def ask(nodes: Iterable[Node]) -> Mapping[str, bool]:
        world.see(sound=2)
        return {node.name: node.name != "node-1" for node in nodes}

    world.health = NodeHealth(world.cache, world.views, SETTINGS, ask, world.now)
    assert await world.visit() == ([], set())
    assert world.health.verdicts == {}


async def test_without_the_right_to_read_nodes_views_alone_decide_and_nobody_is_asked() -> None:
    world = World(knows_nodes=False)
    world.see(SILENT)
    world.seconds = 5.0
    assert await world.visit() == ([], set())
    world.see(ReplicaView("10.0.0.1", "Unreachable", "", 10.0))
    assert await world.visit() == (["chat-a"], {CHAT})
    assert world.asked == []


async def test_only_the_service_whose_pod_says_so_loses_a_node_with_a_bad_accelerator() -> None:
    world = World()
    world.pod(service("other", accelerator=GPU), "other-b", "node-1", "10.0.0.4")
    world.see(BAD)
    assert await world.visit() == (["chat-a"], {CHAT, OTHER})
    assert (world.health.lost(CHAT).keys(), world.health.lost(OTHER)) == ({"node-1"}, {})


@pytest.mark.parametrize("silent", [True, False])
async def test_an_operator_that_takes_over_goes_on_from_the_status(silent: bool) -> None:
    world = World()
    told = service("chat", accelerator=GPU)
    told["status"] = {
        "unhealthyNodes": [
            {"name": "node-1", "reason": "NodeUnreachable", "message": "words", "since": "2026-01-02T03:00:00Z"}
        ]
    }
    world.put(told)
    world.silent = {"node-1"} if silent else set()
    world.health = world.begin()
    deleted, changed = await world.visit()
    assert (deleted, changed) == (["chat-a"] if silent else [], {CHAT})
    assert world.health.verdicts is not None
    assert world.health.verdicts["node-1"].lost is silent


async def test_who_may_not_taint_does_without_for_a_while() -> None:
    world = World()
    world.health = NodeHealth(world.cache, world.views, replace(SETTINGS, node_taints=True), world.ask, world.now)

    async def tainted() -> bool:
        plan, _ = await world.health.visit()
        return any(isinstance(action, PatchTaints) for action in plan.actions)

    world.see(BAD)
    assert await tainted()
    world.health.taints_refused()
    assert not await tainted()
    assert "once no replica says so" in (world.health.verdicts or {})["node-1"].message
    world.seconds = REFUSED_SECONDS
    world.see(BAD)
    assert await tainted()
