"""Random sequences of what users do and of what breaks: a hypothesis state machine that draws steps.

It draws alone and plays nothing: all sequences are drawn before the first is played, so that several can be played at
once, outside of hypothesis, which wants a test to itself.
"""

import signal
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from churn_play import Step
from churn_users import DAMAGE
from refused_specs import REFUSED, Case
from spec_strategies import Spec, changes, nonsense, specs

NAMES = ("chat", "code")
_name = st.sampled_from(NAMES)


class Churn(RuleBasedStateMachine):
    """Draws one sequence and puts it to `drawn`, which a subclass sets."""

    drawn: list[tuple[Step, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def teardown(self) -> None:
        self.drawn.append(tuple(self.steps))

    def _then(self, action: str, **arguments: Any) -> None:
        self.steps.append(Step(action, arguments))

    @initialize(first=specs(nodes=(1, 2)), second=specs(nodes=(1, 2)))
    def create_two(self, first: Spec, second: Spec) -> None:
        for name, spec in zip(NAMES, (first, second), strict=True):
            self._then("create_or_replace", name=name, spec=spec)

    @rule(name=_name, spec=specs(nodes=(1, 2)))
    def create_or_replace(self, name: str, spec: Spec) -> None:
        self._then("create_or_replace", name=name, spec=spec)

    @rule(name=_name, change=changes)
    def patch(self, name: str, change: Spec) -> None:
        self._then("patch", name=name, change=change)

    @rule(name=_name, change=nonsense)
    def patch_with_nonsense(self, name: str, change: Spec) -> None:
        self._then("patch", name=name, change=change)

    @rule(name=_name, case=st.sampled_from(REFUSED))
    def create_what_is_refused(self, name: str, case: Case) -> None:
        self._then("create_what_is_refused", name=name, case=case)

    @rule(name=_name, replicas=st.integers(0, 3))
    def scale(self, name: str, replicas: int) -> None:
        self._then("scale", name=name, replicas=replicas)

    @rule(name=_name)
    def delete(self, name: str) -> None:
        self._then("delete", name=name)

    @rule(name=_name, spec=specs(nodes=(1, 2)), delay=st.sampled_from([0.0, 0.15, 0.4]))
    def replace_by_another_of_the_name(self, name: str, spec: Spec, delay: float) -> None:
        self._then("replace_by_another_of_the_name", name=name, spec=spec, delay=delay)

    @rule(which=st.integers(0, 9), gently=st.booleans())
    def lose_a_pod(self, which: int, gently: bool) -> None:
        self._then("lose_a_pod", which=which, gently=gently)

    @rule(name=_name, damage=st.sampled_from(DAMAGE))
    def damage_a_child(self, name: str, damage: tuple[str, Spec | None]) -> None:
        self._then("damage_a_child", name=name, damage=damage)

    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def restart_the_operator(self, number: signal.Signals) -> None:
        self._then("restart_the_operator", number=number)

    @rule(name=_name, kind=st.sampled_from(["Service", "ServiceAccount"]), seconds=st.sampled_from([0.0, 3.0]))
    def come_upon_a_stranger(self, name: str, kind: str, seconds: float) -> None:
        self._then("come_upon_a_stranger", name=name, kind=kind, seconds=seconds)

    @rule()
    def come_to_rest(self) -> None:
        if self.steps and self.steps[-1].action != "come_to_rest":
            self._then("come_to_rest")

    @rule(name=_name, change=changes)
    def change_and_revert(self, name: str, change: Spec) -> None:
        self._then("change_and_revert", name=name, change=change)


def draw_sequences(count: int, steps: int) -> Sequence[tuple[Step, ...]]:
    """So many sequences of at most so many steps, the same ones each time: the most varied of those drawn.

    Hypothesis leaves some rules out of each sequence and repeats others: one in four is worth the seconds it takes.
    """
    drawn: list[tuple[Step, ...]] = []
    machine = seed(0)(type("Drawing", (Churn,), {"drawn": drawn}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=4 * count,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    chosen: list[tuple[Step, ...]] = []
    seen: set[str] = set()
    while drawn and len(chosen) < count:  # what adds a kind of step first, then what has many
        best = max(drawn, key=lambda one: (len(_kinds(one) - seen), len(_kinds(one))))
        drawn.remove(best)
        chosen.append(best)
        seen |= _kinds(best)
    return chosen


def _kinds(sequence: Sequence[Step]) -> set[str]:
    return {step.action for step in sequence}
