"""Which nodes cannot be counted on, and why. Pure.

Three causes. Kubernetes says so itself, 40 to 50 s after a node has died. Before that: every gateway finds every
replica on it unreachable, and its kubelet is silent too, while others answer: two witnesses that share no fault but the
node's. And a worker says that its accelerator is bad. Whatever goes by what gateways say is bounded: no more than a
third of the nodes with replicas of ours is given up at one time, else it is the network that is sick.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.evidence import Sign, faults, signs
from ryzanstein_operator.decide.observed import NodeVerdict
from ryzanstein_operator.decide.scene import NODE_REASONS, Node, Scene, Seat, alike
from ryzanstein_operator.decide.times import moment
from ryzanstein_worker.contract import TAINT_UNHEALTHY

SILENT_SECONDS: Final = 3.0
SILENT_SECONDS_UNASKED: Final = 10.0
"""Where the kubelet cannot be asked."""
UNKNOWN_SECONDS: Final = 5.0
"""A kubelet that Kubernetes has not heard of for 40 s gets so much longer: after an outage of the API server all nodes
look like that for a moment."""
NOT_READY_SECONDS: Final = 30.0
"""One that says itself that it is not ready may only be starting anew."""
WELL_SECONDS: Final = 10.0
SHARE: Final = 3
AT_ONE_TIME_SECONDS: Final = 60.0
CONTROLS: Final = 3
_AND_SO_ARE: Final = "; and so are "


def suspects(scene: Scene) -> tuple[str, ...]:
    """Nodes whose kubelets are to be asked."""
    nodes = scene.nodes or {}
    doubted = {name for name, sign in signs(scene).items() if not sign.alive}
    doubted |= {name for name, verdict in scene.before.items() if verdict.reason == Reason.NODE_UNREACHABLE}
    return tuple(sorted(name for name in doubted if name in nodes and nodes[name].well))


def controls(scene: Scene, doubted: Iterable[str]) -> tuple[str, ...]:
    """Nodes to ask besides: where none of them answers, silence says nothing but that the way is barred."""
    others = (node.name for node in (scene.nodes or {}).values() if node.well and node.name not in set(doubted))
    return tuple(sorted(others))[:CONTROLS]


def judge(scene: Scene) -> dict[str, NodeVerdict]:
    """Every node that cannot be counted on, by name."""
    found = _Findings(scene, signs(scene), faults(scene))
    verdicts = {name: verdict for name in found.names() if (verdict := _judge(name, found)) is not None}
    return _bounded(verdicts, found)


def seeds(services: Iterable[Manifest], nodes: Mapping[str, Node], now: datetime) -> dict[str, NodeVerdict]:
    """What an operator that has just begun knows of earlier verdicts: from statuses and from taints."""
    found: dict[str, NodeVerdict] = {}
    for service in services:
        for one in service.get("status", {}).get("unhealthyNodes") or ():
            if one["reason"] in NODE_REASONS:
                since = moment(one["since"])
                found[one["name"]] = NodeVerdict(one["name"], one["reason"], one["message"], since)
    for node in nodes.values():
        if node.taint:
            known = found.get(node.name, NodeVerdict(node.name, node.taint, _FROM_TAINT, now))
            lost = node.taint != Reason.ACCELERATOR_FAULT
            found[node.name] = replace(known, reason=node.taint, lost=lost, shunned=True, tainted=True)
    return {
        name: replace(verdict, lost=True, shunned=True) if verdict.reason == Reason.NODE_UNREACHABLE else verdict
        for name, verdict in found.items()
    }


_FROM_TAINT = f"it bears the taint {TAINT_UNHEALTHY}"


@dataclass(frozen=True)
class _Findings:
    scene: Scene
    signs: Mapping[str, Sign]
    faults: Mapping[str, tuple[tuple[Seat, str], ...]]

    def names(self) -> tuple[str, ...]:
        nodes = self.scene.nodes
        if nodes is None:
            return tuple(sorted({*self.signs, *self.faults, *self.scene.before}))
        ours = {seat.node for seat in self.scene.seats}
        doubtful = {node.name for node in nodes.values() if node.taint or (node.name in ours and not node.well)}
        doubtful |= self.signs.keys() | self.faults.keys() | self.scene.before.keys()
        return tuple(sorted(doubtful & nodes.keys()))

    def node(self, name: str) -> Node | None:
        return (self.scene.nodes or {}).get(name)

    def silent(self, name: str) -> bool:
        """Whether its kubelet was asked and did not answer, while another did."""
        asked = self.scene.kubelets
        return asked.get(name) is False and any(asked.values())


def _judge(name: str, found: _Findings) -> NodeVerdict | None:
    before, node, now = found.scene.before.get(name), found.node(name), found.scene.now
    verdict = _not_ready(name, found) or _unreachable(name, found) or _faulty(name, found)
    if verdict is not None:
        return replace(verdict, tainted=bool(verdict.tainted or (node and node.taint)))
    if before is None or not before.shunned or before.reason == Reason.ACCELERATOR_FAULT:
        return None
    since = before.well_since or now
    return None if now - since >= timedelta(seconds=WELL_SECONDS) else replace(before, lost=False, well_since=since)


def _not_ready(name: str, found: _Findings) -> NodeVerdict | None:
    node, before, now = found.node(name), found.scene.before.get(name), found.scene.now
    if node is None or node.well:
        return None
    verdict = _kept(before, name, Reason.NODE_NOT_READY, f"Kubernetes says that it is not ready: {node.words}", now)
    patience = timedelta(seconds=UNKNOWN_SECONDS if node.ready == "Unknown" else NOT_READY_SECONDS)
    elsewhere = any(other.well for other in (found.scene.nodes or {}).values())
    lost = verdict.lost or (elsewhere and now - verdict.since >= patience)
    return replace(verdict, lost=lost, shunned=lost or verdict.shunned)


def _unreachable(name: str, found: _Findings) -> NodeVerdict | None:
    before, now = found.scene.before.get(name), found.scene.now
    node = found.node(name)
    words = "no gateway reaches a replica on it, and its kubelet does not answer"
    if node is None:
        words = f"no gateway has reached a replica on it for {SILENT_SECONDS_UNASKED:.0f} s"
    if before is not None and before.reason == Reason.NODE_UNREACHABLE and (before.lost or (node and before.shunned)):
        # Its pods are being deleted, so no gateway speaks of them any more: it stays lost until something lives there.
        return None if _lives(name, found) else replace(before, lost=True, well_since=None)
    sign = found.signs.get(name)
    if sign is None or sign.alive:
        return None
    enough = SILENT_SECONDS if node is not None else SILENT_SECONDS_UNASKED
    if sign.silent_seconds < enough or (node is not None and not found.silent(name)):
        return None
    return replace(_kept(before, name, Reason.NODE_UNREACHABLE, words, now), lost=True, shunned=True)


def _lives(name: str, found: _Findings) -> bool:
    """Whether a node that was given up shows life: its kubelet answers, or a pod that came later is up; where kubelets
    cannot be asked also that it has let go of every pod."""
    since = found.scene.before[name].since
    there = [seat for seat in found.scene.seats if seat.node == name]
    if any(seat.ready and not seat.ending and _created(seat) > since for seat in there):
        return True
    if found.node(name) is None:
        return not there
    return found.scene.kubelets.get(name) is True


def _created(seat: Seat) -> datetime:
    return moment(seat.created or "1970-01-01T00:00:00Z")


def _faulty(name: str, found: _Findings) -> NodeVerdict | None:
    before, node, now = found.scene.before.get(name), found.node(name), found.scene.now
    known = before if before is not None and before.reason == Reason.ACCELERATOR_FAULT else None
    said = found.faults.get(name, ())
    taintable = found.scene.taints and node is not None
    if not said:
        standing = node is not None and node.taint == Reason.ACCELERATOR_FAULT
        waiting = known is not None and known.shunned and not known.tainted
        if not (taintable and (standing or waiting)):
            return None
        return replace(known or NodeVerdict(name, Reason.ACCELERATOR_FAULT, _FROM_TAINT, now), shunned=True)
    seat, words = said[0]
    ending = (
        f"the taint {TAINT_UNHEALTHY} stays on the node until a person takes it away"
        if taintable
        else "the node is counted on again once no replica says so"
    )
    message = f"{seat.name}: {words.rstrip('.')}; {ending}"
    verdict = _kept(before, name, Reason.ACCELERATOR_FAULT, message, now)
    told = verdict.message if ending in verdict.message else message
    return replace(verdict, message=told, lost=False, shunned=True)


def _kept(before: NodeVerdict | None, name: str, reason: Reason, message: str, now: datetime) -> NodeVerdict:
    """The verdict so far with this cause. One of the same cause keeps its words, and all keep their beginning."""
    if before is None:
        return NodeVerdict(name, reason, message, now)
    same = before.reason == reason and (reason != Reason.NODE_NOT_READY or alike(before.message, message))
    return replace(before, reason=reason, message=before.message if same else message, well_since=None)


def _bounded(verdicts: dict[str, NodeVerdict], found: _Findings) -> dict[str, NodeVerdict]:
    """Nothing is done about nodes that are newly found bad by what gateways say, where they would be too many."""
    by_views = {name: one for name, one in verdicts.items() if one.shunned and one.reason != Reason.NODE_NOT_READY}
    new = {name for name in by_views if not _acted(found.scene.before.get(name))}
    told = new | {name for name, verdict in by_views.items() if not _long_ago(verdict, found.scene.now)}
    ours = len({seat.node for seat in found.scene.seats} | told)
    if len(told) <= max(1, ours // SHARE):
        return verdicts | {name: replace(verdicts[name], message=_cause(verdicts[name])) for name in new}
    words = f"{_AND_SO_ARE}{len(told)} of {ours} nodes at one time: that is no fault of a node, and nothing is done"
    return verdicts | {
        name: replace(verdicts[name], lost=False, shunned=False, message=_cause(verdicts[name]) + words) for name in new
    }


def _long_ago(verdict: NodeVerdict, now: datetime) -> bool:
    """Whether it has nothing to do with what happens now: an accelerator stays bad until a person comes."""
    old = now - verdict.since >= timedelta(seconds=AT_ONE_TIME_SECONDS)
    return old and verdict.reason == Reason.ACCELERATOR_FAULT


def _acted(before: NodeVerdict | None) -> bool:
    return before is not None and before.shunned


def _cause(verdict: NodeVerdict) -> str:
    return verdict.message.partition(_AND_SO_ARE)[0]
