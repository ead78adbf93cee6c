"""What users do, step by step: after each step the cluster comes to rest in a state that every run must reach."""

from collections.abc import Callable
from dataclasses import dataclass

from faultcases.lane import Lane

Step = Callable[[Lane], None]


@dataclass(frozen=True)
class Scenario:
    """setup: before any fault. steps: under faults. at_rest: whether the setup ends with everything in its place."""

    name: str
    setup: tuple[Step, ...]
    steps: tuple[Step, ...]
    at_rest: bool = True


def _create(name: str = "chat", **spec: object) -> Step:
    return lambda lane: lane.create(name, **spec)


def _change(name: str = "chat", **spec: object) -> Step:
    return lambda lane: lane.change(name, **spec)


def _delete(name: str = "chat") -> Step:
    return lambda lane: lane.delete(name)


def _recreate(lane: Lane) -> None:
    lane.delete("chat")
    lane.create("chat", replicas=1)


def _start(lane: Lane) -> None:
    lane.start()


def _as_installed(lane: Lane) -> None:
    """A service, and an operator that has never run: not even the route table is there."""
    lane.kill()
    lane.forget_table()
    lane.create("chat", replicas=2)


ROUTES = (
    _create(replicas=1),
    _create("zeta", replicas=1, model={"uri": "demo://", "name": "chat"}),  # the older one keeps the name
    _change("zeta", access={"keySets": ["gold"]}),
    _delete(),  # and leaves it to the younger
)
GROUP = {"tensor": 2, "nodes": 2}
SCENARIOS = {
    one.name: one
    for one in (
        Scenario("create", (), (_create(replicas=2),)),
        Scenario("start", (_as_installed,), (_start,), at_rest=False),
        Scenario("scale", (_create(replicas=2),), (_change(replicas=4), _change(replicas=1))),
        Scenario("template", (_create(replicas=2),), (_change(engine={"maxNumSeqs": 5}),)),
        Scenario("model", (_create(replicas=2),), (_change(model={"uri": "hf://org/model", "revision": "v1"}),)),
        Scenario("recreate", (_create(replicas=2),), (_change(replicas=3), _recreate)),
        Scenario("delete", (_create(replicas=2),), (_delete(),)),
        Scenario("routes", (), ROUTES),
        Scenario(
            "group",
            (),
            (
                _create(replicas=1, parallelism=GROUP),
                lambda lane: lane.kill_pods("chat"),
                _change(engine={"maxNumSeqs": 5}),
            ),
        ),
    )
}
