"""The sizes of autoscaled services between visits: what was sampled, decided and told. Decides nothing itself.

A decision is made at each visit, and also when samples come: most of those change nothing, and need no visit. What is
remembered here may be lost with the process: the size in force is in the cluster.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import SpecError, parse, section
from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.decide.looked import look
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.pace import changed
from ryzanstein_operator.decide.queries import Place
from ryzanstein_operator.decide.scale import decide
from ryzanstein_operator.decide.sizing import Decision, Memory, Sample, Seen
from ryzanstein_operator.decide.telling import Told, as_told, news, tell

STALE_SECONDS: Final = 30.0
"""What is known for longer is not known any more; unless there are so many services that each is asked about less
often."""
SCRAPED_SECONDS: Final = 30.0
"""So long after the first replica became ready Prometheus need not have heard of it."""
Tell = Callable[[Key, int, Decision], None]


@dataclass(frozen=True)
class Question:
    """What is to be asked for one service. expected: its replicas should have series; activity: of so many seconds it
    is to be asked whether there were requests, 0: it need not be."""

    autoscaling: Autoscaling
    place: Place
    expected: bool
    activity: int


@dataclass(frozen=True)
class Reading:
    """The answers, at a moment. active: None where it was not asked or is not known."""

    samples: tuple[Sample, ...]
    active: bool | None = None


@dataclass
class _State:
    """uid: of the service that this is about; seen: at its last visit; since: when replicas began to be ready; good:
    the last usable answer to each target and when it came; asked: when the last reading came."""

    uid: str
    autoscaling: Autoscaling
    model: str
    seen: Seen
    memory: Memory = field(default_factory=Memory)
    since: float | None = None
    reading: Reading = field(default_factory=lambda: Reading(()))
    good: dict[int, tuple[float, Sample]] = field(default_factory=dict)
    asked: float = float("-inf")
    told: Told | None = None
    decision: Decision | None = None


class Scaler:
    """Use within one event loop. tell: hears of every decision of a visit, with the size before."""

    def __init__(
        self,
        release: str,
        idle_seconds: Callable[[Key], float | None],
        tell: Tell = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._release, self._idle, self._tell, self._clock = release, idle_seconds, tell, clock
        self._states: dict[Key, _State] = {}
        self.fresh_seconds = STALE_SECONDS

    def services(self) -> tuple[Key, ...]:
        """Those whose size follows the load."""
        return tuple(self._states)

    def forget(self, key: Key) -> None:
        """The service is gone or going, or its size follows nothing any more."""
        self._states.pop(key, None)

    def visit(self, key: Key, observed: Observed, now: datetime) -> Decision | None:
        """The size for this visit; None where there is none to choose. Follow it with `carried_out`."""
        leaving = "deletionTimestamp" in observed.service["metadata"]
        if leaving or not section(observed.service, "spec").get("autoscaling"):
            self.forget(key)
            return None
        try:
            service = parse(InferenceService, observed.service)
        except SpecError:
            return None
        autoscaling = service.spec.autoscaling
        if autoscaling is None:
            return None
        seen = look(observed, service, autoscaling, now)
        state = self._state(key, observed, service, autoscaling, seen)
        if seen.current != state.seen.current:  # written down at a visit that failed thereafter, or by another process
            state.memory = changed(state.memory, state.seen.current, seen.current, self._clock(), autoscaling.behavior)
        state.seen = seen
        state.since = None if not state.seen.ready else state.since or self._clock()
        decision = self._decide(key, state)
        if state.told is not None and not news(decision, state.told, self._clock()):
            decision = as_told(decision, state.told)
        else:
            state.told = tell(decision, state.told, self._clock())
        state.decision = decision
        return decision

    def carried_out(self, key: Key, *, done: bool) -> None:
        """What was decided at a visit has been done, or not: then it is decided again as if it had not been."""
        state = self._states.get(key)
        if state is None or state.decision is None:
            return
        decision, state.decision = state.decision, None
        if done or decision.replicas == state.seen.current:
            self._tell(key, state.seen.current, decision)
            state.memory, state.seen = decision.memory, replace(state.seen, current=decision.replicas)
        else:
            state.told = None

    def question(self, key: Key) -> Question | None:
        """What is to be asked for a service; None if its size follows nothing any more."""
        state = self._states.get(key)
        if state is None:
            return None
        last = state.autoscaling.min_replicas == 0 and state.seen.current == 1
        return Question(
            state.autoscaling,
            Place(key.namespace, key.name, state.model, self._release),
            state.since is not None and self._clock() - state.since >= SCRAPED_SECONDS,
            state.autoscaling.idle_seconds_before_zero if last else 0,
        )

    def answered(self, key: Key, question: Question, reading: Reading, failed: frozenset[int]) -> bool:
        """Take in the answers to a question. failed: the targets, by place, about which Prometheus said nothing; their
        last samples hold for a while. Says whether the service is to be visited for it."""
        state, now = self._states.get(key), self._clock()
        if state is None or state.autoscaling != question.autoscaling:
            return False
        state.reading, state.asked = reading, now
        state.good |= {place: (now, one) for place, one in enumerate(reading.samples) if place not in failed}
        if state.decision is not None:  # a visit is under way, which has seen the samples of before
            return True
        decision = self._decide(key, state)
        if decision.replicas == state.seen.current:
            state.memory = decision.memory
        return news(decision, state.told, now)

    def _state(
        self, key: Key, observed: Observed, service: InferenceService, autoscaling: Autoscaling, seen: Seen
    ) -> _State:
        uid = str(observed.service["metadata"].get("uid", ""))
        state = self._states.get(key)
        if state is None or state.uid != uid:
            state = _State(uid, autoscaling, service.model_name, seen)
            self._states[key] = state
        if state.autoscaling.targets != autoscaling.targets:  # the samples are those of other targets
            state.reading, state.good, state.asked = Reading(()), {}, float("-inf")
        state.autoscaling, state.model = autoscaling, service.model_name
        return state

    def _decide(self, key: Key, state: _State) -> Decision:
        now = self._clock()
        reading = self._fresh(state, now)
        idle = self._idle(key)
        seen = replace(state.seen, samples=reading.samples, active=reading.active, idle_seconds=idle)
        return decide(state.autoscaling, seen, state.memory, now)

    def _fresh(self, state: _State, now: float) -> Reading:
        """What is known now: in place of an answer that failed the one before it, as long as that is fresh."""
        if now - state.asked >= self.fresh_seconds:
            return Reading(())
        samples = []
        for place, sample in enumerate(state.reading.samples):
            at, good = state.good.get(place, (float("-inf"), sample))
            samples.append(good if now - at < self.fresh_seconds else sample)
        return replace(state.reading, samples=tuple(samples))
