"""Plays a sequence of steps in one namespace of a real API server, and judges where it ends.

Steps do what users do, right or wrong, and break what can break; they never wait for the operator unless that is what
they are for. In the end the namespace must be what its specs say, and the same as if they had been made afresh.
"""

import json
import signal
import time
import traceback
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from churn_oracles import at_rest, broken_states, end_state, faults, services
from churn_users import Users, said
from fakekubelet import FakeKubelet
from faultcases.invariants import violations
from faultcases.lane import Lane
from faultcases.recorder import Manifest
from faultcases.runs import complaints, quiet
from faultcases.snapshot import Flat, difference
from refused_specs import Case
from ryzanstein_operator.decide import claims
from ryzanstein_operator.settings import Settings
from spec_strategies import Spec, impossible, merged, refusal

REST_SECONDS = 180.0
IDLE_SECONDS = 1.0
QUIET_SECONDS = 3.0
_OF_A_FORMER_LIFE = (", more than ", " was made for UID ")
"""What a spec that changes at once is allowed: pods still end, or still come, for the one before, and a child that was
on its way already is made for a former life of the service, and goes with it."""

_AT_ITS_END = "an error occurred during closing of asynchronous generator <async_generator object infinite_watch"
"""kopf leaves a watch open when SIGTERM meets it between two events, and asyncio complains as it closes it. The process
ends all the same, with status 0."""


@dataclass
class Tally:
    """What is printed in the end."""

    sequences: int = 0
    judged: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def lines(self) -> list[str]:
        total = sum(self.steps.values())
        words = ", ".join(f"{count} {name}" for name, count in sorted(self.steps.items()))
        return [
            f"{self.judged} sequences of {total} steps: {words}",
            f"the longest way to rest took {self.slowest:.1f} s",
        ]


@dataclass(frozen=True)
class Stage:
    """Where it is played."""

    lane: Lane
    kubelet: FakeKubelet
    settings: Settings
    tally: Tally


@dataclass(frozen=True)
class Step:
    """action: a public method of Play, called with the arguments."""

    action: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.action}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def play(stage: Stage, steps: Sequence[Step]) -> None:
    """All of it. Raises AssertionError, which names the steps."""
    stage.tally.sequences += 1
    try:
        one = Play(stage)
        for step in steps:
            getattr(one, step.action)(**step.arguments)
        one.judge()
    except Exception as error:
        told = "\n".join(f"    {step}" for step in steps)
        detail = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        raise AssertionError(f"{type(error).__name__}: {error}\n{detail}{where}after these steps:\n{told}") from error


class Play:
    """One sequence, in an empty namespace."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.lane, self.settings = stage, stage.lane, stage.settings
        self.lane.reset()
        self.users = Users(self.lane, stage.kubelet)
        self.specs = self.users.specs
        self.known: dict[str, Flat] = {}

    def _count(self, what: str) -> None:
        self.stage.tally.steps[what] += 1

    # --- what users do ---------------------------------------------------------------------------------

    def create_or_replace(self, name: str, spec: Spec) -> None:
        self._count("valid specs")
        if name not in self.specs:
            self.users.create(name, spec)
            return
        spec = spec | {"model": self._under_its_name(name, spec["model"])}
        self._try(refusal(name, self.specs[name], spec), lambda: self.users.put(name, spec), name)

    def patch(self, name: str, change: Spec) -> None:
        self._ensure(name)
        refused = refusal(name, self.specs[name], merged(self.specs[name], change))
        self._count("invalid patches" if refused else "patches")
        self._try(refused, lambda: self.users.patch(name, change), name)

    def create_what_is_refused(self, name: str, case: Case) -> None:
        self._count("invalid specs")
        bad = case.manifest["metadata"]["name"]
        found = self.users.refusal(self.users.body(name if bad == "chat" else bad, case.manifest["spec"]))
        assert name in self.specs or case.sentence in found, f"{case.title}: {found}"

    def scale(self, name: str, replicas: int) -> None:
        self._ensure(name)
        self._count("scalings")
        self.users.scale(name, replicas)

    def delete(self, name: str) -> None:
        self._ensure(name)
        self._count("deletions")
        self.users.delete(name)

    def replace_by_another_of_the_name(self, name: str, spec: Spec, delay: float) -> None:
        """Deleted while it is being created, and made anew at once."""
        self._count("recreations")
        if name not in self.specs:
            self.users.create(name, spec)
            time.sleep(delay)
        self.users.delete(name)
        self.users.create(name, spec)

    # --- what else happens -------------------------------------------------------------------------------

    def lose_a_pod(self, which: int, gently: bool) -> None:
        if self.users.lose_pod(which, gently=gently):
            self._count("pods lost")

    def damage_a_child(self, name: str, damage: tuple[str, Manifest | None]) -> None:
        self._ensure(name)
        self._count("children damaged")
        self.users.damage(name, *damage)

    def restart_the_operator(self, number: signal.Signals) -> None:
        self._count("operator restarts")
        self.users.restart_operator(number)

    def come_upon_a_stranger(self, name: str, kind: str, seconds: float) -> None:
        """A name that the next service of that name needs is taken for a while."""
        if name in self.specs:
            self.users.delete(name)
        self._count("names taken")
        self.users.take_name(name, kind)
        self.users.create(name, {"model": {"uri": "demo://"}})
        time.sleep(seconds)
        self.users.damage(name, kind, None)

    def come_to_rest(self) -> None:
        """The namespace is what its specs say; where it has been asked for the same before, it is the same again."""
        self._count("rests")
        self._rest()
        if any(impossible(spec) for spec in self.specs.values()):
            return
        found = self._state()
        before = self.known.setdefault(json.dumps([self.specs, self._owners()], sort_keys=True), found)
        self._same(found, before, "the same specs gave another state before")

    def change_and_revert(self, name: str, change: Spec) -> None:
        """What was at rest before a change that is taken back comes back."""
        self._ensure(name)
        before = self.specs[name]
        if refusal(name, before, merged(before, change)):
            return
        self._count("reverts")
        self.come_to_rest()
        self.users.patch(name, change)
        time.sleep(0.3)
        self.users.put(name, before)
        self.come_to_rest()

    # --- the end ----------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Raises AssertionError."""
        for name in [name for name, spec in self.specs.items() if impossible(spec)]:
            self.users.patch(name, {"template": None})
        self._rest()
        self._quiet()
        self._history()
        found = self._state()
        self._afresh()
        self._rest()
        self._same(found, self._state(), "fresh services of the same specs are in another state")
        self.stage.tally.judged += 1

    def _rest(self) -> None:
        started, history = time.monotonic(), self.lane.history
        while True:
            left = REST_SECONDS - (time.monotonic() - started)
            if not history.wait(lambda objects: at_rest(objects) and not faults(objects, self.settings), left):
                raise AssertionError("\n".join(self._evidence()))
            idle = time.monotonic() - history.last_at
            if idle >= IDLE_SECONDS:
                break
            time.sleep(IDLE_SECONDS - idle)
        self.stage.tally.slowest = max(self.stage.tally.slowest, time.monotonic() - started)
        assert sorted(self.specs) == sorted(one["metadata"]["name"] for one in services(history.now()))

    def _quiet(self) -> None:
        more = quiet(self.lane, QUIET_SECONDS)
        assert not more, "\n".join(more)

    def _history(self) -> None:
        """No traceback, and no state on the way that must never be."""
        history = self.lane.history
        found = violations(history) + broken_states(history) + complaints(self.lane)
        allowed = (*_OF_A_FORMER_LIFE, _AT_ITS_END)
        bad = [line for line in found if not any(words in line for words in allowed)]
        assert not bad, "\n".join(bad)

    def _afresh(self) -> None:
        """The same services without their past, in the order in which they came: the oldest has the model name."""
        wanted = [(one["metadata"]["name"], one["spec"]) for one in sorted(services(self.lane.history.now()), key=_age)]
        self.lane.reset()
        for name, spec in wanted:
            self.users.create(name, spec)
            time.sleep(1.05 if len(wanted) > 1 else 0)  # a creation is dated in seconds

    def _state(self) -> Flat:
        return end_state(self.lane.history.now(), self.lane.namespace)

    def _same(self, found: Flat, wanted: Flat, words: str) -> None:
        lines = difference(found, wanted, frozenset())
        assert not lines, "\n".join([words, *lines[:20]])

    def _evidence(self) -> Iterator[str]:
        yield from faults(self.lane.history.now(), self.settings) or ["it is not at rest"]
        for one in services(self.lane.history.now()):
            yield f"{one['metadata']['name']}: {json.dumps(one['spec'])} {json.dumps(one.get('status', {}))}"
        yield from (str(call) for call in self.lane.proxy.log[-20:])
        yield self.lane.log_tail()

    def _ensure(self, name: str) -> None:
        """Steps are drawn without knowing what is there: make what they are about."""
        if name not in self.specs:
            self.users.create(name, {"model": {"uri": "demo://"}})

    # --- what is expected -----------------------------------------------------------------------------------

    def _try(self, refused: str, act: Callable[[], None], name: str) -> None:
        """The API server refuses what `plan` refuses, and nothing else."""
        before = self.users.live(name)["spec"]
        try:
            act()
            found = ""
        except urllib.error.HTTPError as error:
            found = said(error, 422)
        assert bool(found) == bool(refused), f"the API server says {found!r}, and plan {refused!r}"
        assert not found or self.users.live(name)["spec"] == before

    def _under_its_name(self, name: str, model: Spec) -> Spec:
        """`model` under the name that the service has: it cannot change."""
        rest = {key: value for key, value in model.items() if key != "name"}
        kept = self.specs[name]["model"].get("name")
        return rest | ({"name": kept} if kept else {})

    def _owners(self) -> dict[str, str]:
        owners = claims.owners(services(self.lane.history.now()))
        return {model: str(one["metadata"]["name"]) for model, one in owners.items()}


def _age(service: Manifest) -> tuple[str, str]:
    return service["metadata"]["creationTimestamp"], service["metadata"]["name"]
