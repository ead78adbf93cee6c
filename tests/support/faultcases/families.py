"""Which cases there are: a family is one kind of fault, and gives the cases of it in a scenario."""

from collections.abc import Callable
from dataclasses import dataclass

from faultcases.disturbances import (
    Gone,
    Halved,
    Missed,
    Nothing,
    Once,
    Outage,
    Swallowed,
    Twice,
    Unsteady,
)
from faultcases.scenarios import Scenario
from faultcases.takeovers import FrozenAt, Stale, TakenOver
from faultproxy import Abort, Answer, Delayed, Duplicated, Fault, Kill, Kind, Reordered


@dataclass(frozen=True)
class Case:
    """One run that is judged. title: scenario, fault, and the write it is at."""

    title: str
    scenario: Scenario
    disturbance: Nothing


@dataclass(frozen=True)
class Family:
    """cases: for a scenario and the number of its writes. long: started first, because each takes a while. not_for:
    scenarios that have no such case."""

    cases: Callable[[Scenario, int], list[Case]]
    long: bool = False
    not_for: tuple[str, ...] = ()


def _at_every_write(*faults: Fault) -> Family:
    def cases(scenario: Scenario, writes: int) -> list[Case]:
        return [
            Case(f"{scenario.name}, write {k}: {fault}", scenario, Once(number=k, fault=fault))
            for k in range(1, writes + 1)
            for fault in faults
        ]

    return Family(cases)


def _at_pairs_of_writes(*faults: Fault) -> Family:
    """Every write meets every fault, two writes a run: a case counts for both. The first one's being tried again makes
    the second one's number one more."""

    def cases(scenario: Scenario, writes: int) -> list[Case]:
        half = (writes + 1) // 2
        return [
            Case(
                f"{scenario.name}, writes {k} and {k + half}: {fault}", scenario, Twice(fault=fault, first=k, gap=half)
            )
            for k in range(1, half + 1)
            for fault in faults
        ]

    return Family(cases)


def _once(long: bool = False, not_for: tuple[str, ...] = (), **disturbances: Nothing) -> Family:
    def cases(scenario: Scenario, _: int) -> list[Case]:
        named = ((name.replace("_", " "), one) for name, one in disturbances.items())
        return [Case(f"{scenario.name}: {name}", scenario, one) for name, one in named]

    return Family(cases, long, not_for)


def _frozen(scenario: Scenario, writes: int) -> list[Case]:
    """In the first write and a middle one: each takes as long as a Lease lasts."""
    numbers = sorted({1, max(1, writes // (2 * len(scenario.steps)))} & set(range(1, writes + 1)))
    return [Case(f"{scenario.name}, write {k}: frozen", scenario, FrozenAt(number=k)) for k in numbers]


FAMILIES = {
    "quiet": _once(long=True, quiet_for_a_minute=Nothing(quiet_seconds=60.0)),
    "killed": _at_every_write(Kill("before"), Kill("after")),
    "killed-beside": _once(
        killed_before_an_event=Once(kind=Kind.EVENT, fault=Kill("before")),
        killed_after_an_event=Once(kind=Kind.EVENT, fault=Kill("after")),
        killed_before_the_lease=Once(kind=Kind.LEASE, fault=Kill("before")),
        killed_after_the_lease=Once(kind=Kind.LEASE, fault=Kill("after")),
    ),
    "refused": _at_pairs_of_writes(Answer(409), Answer(429, retry_after=1), Answer(500), Answer(403)),
    "reset": _at_pairs_of_writes(Abort("after")),
    "unsteady": _once(
        late_lines=Unsteady(lines=Delayed(1.5)),
        double_lines=Unsteady(lines=Duplicated()),
        reordered_lines=Unsteady(lines=Reordered()),
    ),
    "missed": _once(all_missed=Missed()),
    "gone": _once(gone=Gone()),
    "halved": _once(halved_and_reset=Halved(how="abort"), halved_and_ended=Halved(how="end", may_end=True)),
    # "start" is itself the start of an operator, in the place of one that had run.
    "stale": _once(not_for=("start",), an_old_list=Stale()),
    "taken-over": _once(long=True, not_for=("start",), taken_over=TakenOver()),
    "frozen": Family(_frozen, long=True),
    "swallowed": _once(long=True, swallowed=Swallowed()),
    "away": _once(
        long=True,
        unreachable=Outage(fault=Abort()),
        answers_503=Outage(fault=Answer(503)),
        answers_403=Outage(fault=Answer(403)),
        answers_429=Outage(fault=Answer(429, retry_after=2)),
    ),
}
