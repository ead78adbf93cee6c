"""What is done about nodes that cannot be counted on: taints, and pods deleted so that others take their place. Pure.

A pod is deleted by its UID and gracefully: should its node come back, the pod ends there as any other does. Pods of a
group are left to the rules of groups, which replace it whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.evidence import faults, signs
from ryzanstein_operator.decide.observed import NodeVerdict, Ref
from ryzanstein_operator.decide.plan import Action, Delete, PatchTaints, Plan
from ryzanstein_operator.decide.scene import Node, Place, Scene, Seat, Tries
from ryzanstein_worker.contract import TAINT_UNHEALTHY

FIRST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 120.0
FORGIVEN_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 1.0
"""While a node is doubted or may become well."""
Verdicts = Mapping[str, NodeVerdict]


@dataclass(frozen=True)
class Failover:
    """plan: what to do now. tries: how often pods were deleted from each node, this time included."""

    plan: Plan
    tries: Mapping[str, Tries]


def failover(scene: Scene, verdicts: Verdicts) -> Failover:
    """Taints first, so that what is deleted does not come back to the same node."""
    tries = {name: one for name, one in scene.tries.items() if not _forgiven(one, scene)}
    due = {name: doomed for name, doomed in _doomed(scene, verdicts).items() if _pause(tries.get(name), scene) <= 0}
    deletes = tuple(_delete(seat, verdicts[name]) for name in sorted(due) for seat in due[name])
    for name in due:
        count = tries[name].count if name in tries else 0
        tries[name] = Tries(count + 1, scene.now)
    plan = Plan((*_taints(scene, verdicts), *deletes), again_after=_again(scene, verdicts))
    return Failover(plan, tries)


def lost_nodes(verdicts: Verdicts, said: Mapping[str, tuple[tuple[Seat, str], ...]], service: Place) -> dict[str, str]:
    """The nodes whose pods are as good as gone for one service, and why: those that are lost, and those where a pod of
    this service says that its accelerator is bad (`said`: evidence.faults)."""
    bad = {name for name, faulty in said.items() if any(seat.service == service for seat, _ in faulty)}
    return {
        name: verdict.message
        for name, verdict in verdicts.items()
        if verdict.lost or (verdict.shunned and verdict.well_since is None and name in bad)
    }


def _doomed(scene: Scene, verdicts: Verdicts) -> dict[str, tuple[Seat, ...]]:
    """By node: the pods that are to be replaced."""
    found: dict[str, tuple[Seat, ...]] = {}
    bad = {seat.uid for said in faults(scene).values() for seat, _ in said}
    for seat in scene.seats:
        verdict = verdicts.get(seat.node)
        if verdict is None or seat.ending or seat.group:
            continue
        if verdict.lost or (verdict.shunned and verdict.well_since is None and seat.uid in bad):
            found[seat.node] = (*found.get(seat.node, ()), seat)
    return found


def _delete(seat: Seat, verdict: NodeVerdict) -> Delete:
    namespace, _ = seat.service
    return Delete(Ref("v1", "Pod", namespace, seat.name), seat.uid, f"{verdict.reason} on {seat.node}")


def _pause(tries: Tries | None, scene: Scene) -> float:
    """Seconds until pods may be deleted from a node again: what was put there all the same may be put there again."""
    if tries is None:
        return 0.0
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(tries.count - 1, 10), LONGEST_PAUSE_SECONDS)
    return pause - (scene.now - tries.last).total_seconds()


def _forgiven(tries: Tries, scene: Scene) -> bool:
    return scene.now - tries.last > timedelta(seconds=FORGIVEN_SECONDS)


# --- taints ------------------------------------------------------------------------------------------


def _taints(scene: Scene, verdicts: Verdicts) -> Iterator[Action]:
    nodes = scene.nodes if scene.taints and scene.nodes else {}
    for name in sorted(nodes):
        node, verdict = nodes[name], verdicts.get(name)
        wanted = verdict.reason if verdict is not None and verdict.shunned else ""
        if wanted and node.taint and wanted != Reason.ACCELERATOR_FAULT:
            continue  # one of ours stands; that of an accelerator outlives the others
        if wanted != node.taint:
            why = f"{wanted}: {verdict.message}" if verdict is not None and wanted else "the node is well again"
            yield PatchTaints(Ref("v1", "Node", "", name), node.version, _with(node, wanted), why)


def _with(node: Node, reason: str) -> tuple[Manifest, ...]:
    others = tuple(taint for taint in node.taints if taint["key"] != TAINT_UNHEALTHY)
    return (*others, {"key": TAINT_UNHEALTHY, "value": reason, "effect": "NoSchedule"}) if reason else others


# --- when to look again --------------------------------------------------------------------------------


def _again(scene: Scene, verdicts: Verdicts) -> float | None:
    waits = [max(_pause(scene.tries.get(name), scene), LOOK_SECONDS) for name in _doomed(scene, verdicts)]
    restless = any(not sign.alive for sign in signs(scene).values()) or any(map(_restless, verdicts.values()))
    if restless:
        waits.append(LOOK_SECONDS)
    return min(waits, default=None)


def _restless(verdict: NodeVerdict) -> bool:
    """Whether time alone, or an answer that nobody tells of, changes it."""
    if verdict.well_since is not None or verdict.reason == Reason.NODE_UNREACHABLE:
        return True
    return verdict.reason == Reason.NODE_NOT_READY and not verdict.lost
