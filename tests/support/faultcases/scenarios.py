"""What users do, step by step: after each step the cluster comes to rest in a state that every run must reach."""

from collections.abc import Callable
from dataclasses import dataclass

from faultcases.lane import Lane

Step = Callable[[Lane], None]


@dataclass(frozen=True)
class Scenario:
    """setup: before any fault. steps: under faults."""

    name: str
    setup: tuple[Step, ...]
    steps: tuple[Step, ...]


def _create(name: str = "chat", **spec: object) -> Step:
    return lambda lane: lane.create(name, **spec)


def _change(name: str = "chat", **spec: object) -> Step:
    return lambda lane: lane.change(name, **spec)


def _delete(name: str = "chat") -> Step:
    return lambda lane: lane.delete(name)


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("create", (), (_create(replicas=2),)),
        Scenario("scale", (_create(replicas=2),), (_change(replicas=4), _change(replicas=1))),
        Scenario("template", (_create(replicas=2),), (_change(engine={"maxNumSeqs": 5}),)),
        Scenario("model", (_create(replicas=2),), (_change(model={"uri": "hf://org/model", "revision": "0" * 40}),)),
        Scenario("delete", (_create(replicas=2),), (_delete(),)),
        Scenario(
            "routes",
            (),
            (
                _create(replicas=1),
                _create("zeta", replicas=1, model={"uri": "demo://", "name": "other"}),
                _change("zeta", model={"name": "third"}),
                _delete(),
            ),
        ),
    )
}
