"""Which cases there are: a family is one kind of fault, and gives the cases of it in a scenario."""

from collections.abc import Callable
from dataclasses import dataclass

from faultcases.disturbances import AtWrite, Gone, Halved, Missed, Nothing, Outage, Swallowed, Unsteady
from faultcases.scenarios import Scenario
from faultproxy import Abort, Answer, Delayed, Duplicated, Fault, Kill, Reordered


@dataclass(frozen=True)
class Case:
    """One run that is judged. title: scenario, fault, and the write it is at."""

    title: str
    scenario: Scenario
    disturbance: Nothing


@dataclass(frozen=True)
class Family:
    """cases: for a scenario and the number of its writes. long: started first, because each takes a while."""

    cases: Callable[[Scenario, int], list[Case]]
    long: bool = False


def _at_every_write(name: str, *faults: Fault) -> Family:
    def cases(scenario: Scenario, writes: int) -> list[Case]:
        return [
            Case(f"{scenario.name} {name}: write {k} {fault}", scenario, AtWrite(number=k, fault=fault, needs_write=k))
            for k in range(1, writes + 1)
            for fault in faults
        ]

    return Family(cases)


def _once(name: str, *disturbances: Nothing, long: bool = False) -> Family:
    def cases(scenario: Scenario, _: int) -> list[Case]:
        return [Case(f"{scenario.name} {name}: {one}", scenario, one) for one in disturbances]

    return Family(cases, long)


_OUTAGES: tuple[Fault, ...] = (Abort(), Answer(503), Answer(403), Answer(429, retry_after=2))
FAMILIES = {
    "killed": _at_every_write("killed", Kill("before"), Kill("after")),
    "refused": _at_every_write("refused", Answer(409), Answer(429, retry_after=1), Answer(500), Answer(403)),
    "reset": _at_every_write("reset", Abort("before"), Abort("after")),
    "unsteady": _once(
        "unsteady", Unsteady(lines=Delayed(1.5)), Unsteady(lines=Duplicated()), Unsteady(lines=Reordered())
    ),
    "missed": _once("missed", Missed()),
    "gone": _once("gone", Gone()),
    "halved": _once("halved", Halved(how="abort"), Halved(how="end")),
    "swallowed": _once("swallowed", Swallowed(), long=True),
    "away": _once(
        "away", *(Outage(fault=fault) for fault in (Abort(), Answer(503), Answer(403), Answer(429, 2))), long=True
    ),
}
