"""Runs one case on a lane and judges it by the base oracles of FAULTS.md: no traceback, invariants in every state, the
fault-free run's end state, its creations and deletions, then quiet."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from faultcases.disturbances import Nothing
from faultcases.families import Case
from faultcases.invariants import violations
from faultcases.lane import Lane
from faultcases.recorder import Ident, Manifest
from faultcases.scenarios import Scenario
from faultcases.snapshot import Flat, counted, difference, flatten
from faultproxy import Kind
from ryzanstein_worker import contract

Objects = Mapping[Ident, Manifest]
SETTLED_SECONDS = 1.0
STILL_SECONDS = 5.0
"""Of a fault-free run, whose state is what all others are held to."""
SETUP_SECONDS = 120.0
REST_SECONDS = 40.0
MOST_LATE_WRITES = 3
TOLD = 25
_COUNTED = re.compile(r"eneration$|deployment.kubernetes.io/(revision|desired-replicas|max-replicas)")
FaultFree = tuple[list[Flat], Counter[str], tuple[str, ...]]
"""States after each step, creations and deletions, writes."""


@dataclass(frozen=True)
class Reference:
    """Two fault-free runs. states: after each step. masks: the leaves in which the two differ. writes: the most."""

    states: tuple[Flat, ...]
    masks: tuple[frozenset[str], ...]
    counts: Counter[str]
    writes: tuple[str, ...]


@dataclass
class Result:
    """met: how often the fault came about, which is the count of cases that this run was."""

    title: str
    met: int = 1
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"=== {self.title}\n" + "\n".join(self.failures)


def settled(objects: Objects) -> bool:
    """Every service is as its spec says, and nothing is on its way."""
    services = [one for (kind, _), one in objects.items() if kind == "InferenceService"]
    pods = [one for (kind, _), one in objects.items() if kind == "Pod"]
    table = objects.get(("ConfigMap", contract.ROUTES_CONFIG_MAP))
    if table is None or any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return False
    wanted = sum(pods_wanted(service) for service in services)
    rolled_out = all(_rolled_out(one) for (kind, _), one in objects.items() if kind in ("Deployment", "StatefulSet"))
    return len(pods) == wanted and rolled_out and all(_at_rest(service) for service in services) and _owned(objects)


def _rolled_out(workload: Manifest) -> bool:
    status, wanted = workload.get("status", {}), workload["spec"]["replicas"]
    current = status.get("observedGeneration") == workload["metadata"]["generation"]
    return bool(current and status.get("availableReplicas", 0) == wanted == status.get("replicas", 0))


def pods_wanted(service: Manifest) -> int:
    """How many pods a service asks for."""
    spec = service["spec"]
    return int(spec.get("replicas", 1) * spec.get("parallelism", {}).get("nodes", 1))


def _at_rest(service: Manifest) -> bool:
    status = service.get("status", {})
    said = {one["type"]: one["status"] for one in status.get("conditions", ())}
    rival = any(one["reason"] == "ModelNameTaken" for one in status.get("conditions", ()))
    current = status.get("observedGeneration") == service["metadata"]["generation"]
    up = rival or (said.get("Ready"), said.get("Serving")) == ("True", "True")
    return bool(current) and up and said.get("Progressing") == "False"


def _owned(objects: Objects) -> bool:
    """No child is left whose service is gone."""
    uids = {one["metadata"]["uid"] for (kind, _), one in objects.items() if kind == "InferenceService"}
    owners = [
        owner["uid"]
        for one in objects.values()
        for owner in one["metadata"].get("ownerReferences", ())
        if owner["kind"] == "InferenceService"
    ]
    return set(owners) <= uids


def come_to_rest(lane: Lane, seconds: float = SETUP_SECONDS, still: float = SETTLED_SECONDS) -> None:
    """Wait until the namespace is settled and has not changed for a while. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        assert lane.history.wait(settled, left), f"{lane.namespace} did not settle\n{lane.log_tail()}"
        idle = time.monotonic() - lane.history.last_at
        if idle > still and settled(lane.history.now()):
            return
        time.sleep(max(0.05, still - idle))


def prepare(lane: Lane, scenario: Scenario) -> None:
    """An empty namespace, then the scenario's setup."""
    lane.reset()
    for step in scenario.setup:
        step(lane)
    if scenario.at_rest:
        come_to_rest(lane)
    lane.history.start()


def fault_free(lane: Lane, scenario: Scenario) -> FaultFree:
    """One run without faults."""
    prepare(lane, scenario)
    lane.proxy.arm()
    states = []
    for step in scenario.steps:
        step(lane)
        time.sleep(0.3)  # so that it has begun to move
        come_to_rest(lane, still=STILL_SECONDS)
        states.append(flatten(lane.history.now(), lane.namespace))
    found = violations(lane.history) + complaints(lane)
    assert not found, "\n".join(found)
    return states, counts(lane), tuple(f"{call.verb} {call.path}" for call in lane.proxy.writes)


def compare(one: FaultFree, other: FaultFree) -> Reference:
    """The reference from two fault-free runs. Raises AssertionError where they agree too little to be one."""
    assert one[1] == other[1], f"two fault-free runs made and deleted different things: {one[1]} and {other[1]}"
    masks = []
    for first, second in zip(one[0], other[0], strict=True):
        assert first.keys() == second.keys(), f"two fault-free runs differ in {sorted(first.keys() ^ second.keys())}"
        masks.append(frozenset(path for path in first if first[path] != second[path]))
    return Reference(tuple(one[0]), tuple(masks), one[1], max(one[2], other[2], key=len))


def counts(lane: Lane) -> Counter[str]:
    """Creations and deletions of each object, by its name less what is drawn by chance."""
    states = [state for state in lane.history.ordered() if state.event != "MODIFIED"]
    known = {(ident, one["metadata"]["uid"]) for ident, one in lane.history.first.items()}
    found: Counter[str] = Counter()
    for state in states:
        here = (state.ident, state.manifest["metadata"]["uid"])
        if state.event == "ADDED" and here in known:
            continue
        known.add(here)
        found[f"{state.event} {counted(*state.ident, lane.namespace)}"] += 1
    return found


def complaints(lane: Lane) -> list[str]:
    """Tracebacks in the log."""
    lines = lane.log_path.read_text(errors="replace").splitlines()
    bad = [line for line in lines if "Traceback" in line or '"exception"' in line]
    return [f"a traceback in the log: {line[:1500]}" for line in bad[:3]]


def run(lane: Lane, case: Case, reference: Reference) -> Result:
    """One case. Never raises: what goes wrong is in the Result."""
    scenario, disturbance = case.scenario, case.disturbance
    result, started = Result(case.title), time.monotonic()
    try:
        prepare(lane, scenario)
        disturbance.begin(lane)
        for index, step in enumerate(scenario.steps):
            with disturbance.around(lane, index, index == len(scenario.steps) - 1):
                step(lane)
            if disturbance.same_path or index == len(scenario.steps) - 1:
                _reach(lane, disturbance, index, reference, result)
        result.met = disturbance.met(lane)
        _judge(lane, disturbance, reference, result)
        if lane.operator.status is not None:
            result.failures.append(f"the operator ended by itself with status {lane.operator.status}")
        result.failures += disturbance.judge(lane)
    except Exception as error:  # a case that breaks must not stop the others
        result.failures.append(f"{type(error).__name__}: {error}")
    if result.failures:
        result.failures.append(evidence(lane))
        lane.kill()  # the next case starts with another operator, whatever this one is in
    result.seconds = time.monotonic() - started
    return result


def _reach(lane: Lane, disturbance: Nothing, index: int, reference: Reference, result: Result) -> None:
    wanted, mask = reference.states[index], _mask(disturbance, reference, index)

    def reached(objects: Objects) -> bool:
        return not difference(flatten(objects, lane.namespace), wanted, mask)

    if not lane.history.wait(reached, disturbance.reach_seconds):
        if lane.operator.status is not None:
            result.failures.append(f"the operator ended by itself with status {lane.operator.status}")
        found = difference(flatten(lane.history.now(), lane.namespace), wanted, mask)
        result.failures.append(f"step {index + 1} was not reached in {disturbance.reach_seconds:.0f} s:")
        result.failures += [f"    {line}" for line in found[:TOLD]]
        raise AssertionError("so the rest was not tried")


def quiet(lane: Lane, seconds: float) -> list[str]:
    """Wait for so many seconds without a write. Some may follow the state that was waited for: its Events, and a last
    look at the endpoints; on a machine at its limits they take their time."""
    reached, deadline = time.monotonic(), time.monotonic() + seconds + REST_SECONDS
    while True:
        calls = [call for call in lane.calls() if call.kind not in (Kind.WATCH, Kind.LEASE)]
        busy = any(not call.status and not call.note and call.at > lane.operator.started_at for call in calls)
        since = [call for call in calls if call.verb != "GET" and call.at > reached]
        if not busy and time.monotonic() - max((call.at for call in since), default=reached) > seconds:
            break
        if time.monotonic() > deadline:
            return ["it does not come to rest:", *(f"    {call}" for call in since[-8:])]
        time.sleep(0.1)
    more = [call for call in since if call.kind is Kind.WRITE]
    return [f"it wrote {len(more)} times more, though all was as it should be"] if len(more) > MOST_LATE_WRITES else []


def _mask(disturbance: Nothing, reference: Reference, index: int) -> frozenset[str]:
    """A run that skips the steps between counts its changes otherwise."""
    if disturbance.same_path:
        return reference.masks[index]
    return reference.masks[index] | {path for path in reference.states[index] if _COUNTED.search(path)}


def _judge(lane: Lane, disturbance: Nothing, reference: Reference, result: Result) -> None:
    result.failures += quiet(lane, disturbance.quiet_seconds)
    mask = _mask(disturbance, reference, -1)
    last = difference(flatten(lane.history.now(), lane.namespace), reference.states[-1], mask)
    result.failures += [f"it did not stay: {line}" for line in last[:TOLD]]
    result.failures += violations(lane.history)[:TOLD]
    result.failures += [] if disturbance.may_end else complaints(lane)
    found = counts(lane) if disturbance.same_path else reference.counts
    for name in sorted(found.keys() | reference.counts.keys()):
        if found[name] != reference.counts[name]:
            result.failures.append(f"{name}: {found[name]} times, {reference.counts[name]} in the fault-free run")


def evidence(lane: Lane) -> str:
    """The last calls and the end of the log."""
    calls = [str(call) for call in lane.proxy.log if call.kind not in ("lease",)][-25:]
    return "\n".join(["last calls:", *(f"    {call}" for call in calls), "log:", lane.log_tail()])
