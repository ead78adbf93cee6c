"""The sizes between visits: what is fresh, what is told, and what is remembered of what was not done."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from operator_builders import ready_pod, service, settled
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.decide.observed import Demand, Observed
from ryzanstein_operator.decide.sizing import Decision, Sample
from ryzanstein_operator.handlers.scaler import STALE_SECONDS, Reading, Scaler

CHAT = Key("team", "chat")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TARGET = {"metric": "WaitingRequests", "value": 5}


class World:
    """A scaler with a clock that a test sets, and one service that is visited."""

    def __init__(self, size: int = 2, **autoscaling: object) -> None:
        self.now = 1000.0
        self.idle: float | None = None
        self.told: list[tuple[Key, int, Decision]] = []
        self.scaler = Scaler("release", lambda _: self.idle, lambda *words: self.told.append(words), lambda: self.now)
        self.spec = {"maxReplicas": 4, "targets": [TARGET], **autoscaling}
        self.size = size

    def live(self) -> Manifest:
        live = service(autoscaling=self.spec)
        return {**live, "status": {"desiredReplicas": self.size, "autoscaling": {"metric": ""}}}

    def visit(self, *, done: bool = True, demand: int = 0) -> Decision:
        live = self.live()
        observed = settled(live, *(ready_pod(live, f"chat-{n}") for n in range(self.size)))
        observed = replace(observed, demand=Demand(demand) if demand else None)
        decision = self.scaler.visit(CHAT, observed, NOW)
        assert decision is not None
        self.scaler.carried_out(CHAT, done=done)
        if done:
            self.size = decision.replicas
        return decision

    def answer(self, value: float | None, *, failed: Iterable[int] = (), trouble: str = "away") -> bool:
        question = self.scaler.question(CHAT)
        assert question is not None
        sample = Sample(value, self.size) if value is not None else Sample(None, trouble=trouble)
        return self.scaler.answered(CHAT, question, Reading((sample,)), frozenset(failed))


def test_nobody_has_asked_at_first_and_the_size_is_held() -> None:
    world = World()
    decision = world.visit()
    assert (decision.replicas, decision.active) == (2, Reason.PENDING)


def test_samples_that_change_nothing_wake_nobody() -> None:
    world = World()
    world.visit()
    assert world.answer(10), "the first answer is news"
    world.visit()
    for _ in range(4):
        world.now += 5
        assert not world.answer(9.8)
    assert world.answer(15), "another size is news at once"
    assert world.visit().replicas == 3


def test_a_number_alone_is_told_every_thirty_seconds() -> None:
    world = World()
    world.visit()
    world.answer(10)
    world.visit()
    for _ in range(5):
        world.now += 5
        assert not world.answer(9.6)
        assert world.visit().value == "10", "a visit for another reason does not tell it either"
    world.now += 5
    assert world.answer(9.6)
    assert world.visit().value == "9.6"


def test_a_failed_query_leaves_the_last_sample_as_long_as_it_is_fresh() -> None:
    world = World()
    world.visit()
    world.answer(10)
    assert world.visit().active == Reason.METRICS_READ
    world.now += STALE_SECONDS - 1
    assert not world.answer(None, failed=[0])
    assert world.visit().active == Reason.METRICS_READ
    world.now += 2
    assert world.answer(None, failed=[0])
    decision = world.visit()
    assert (decision.active, decision.replicas) == (Reason.METRICS_UNAVAILABLE, 2)
    assert "away" in decision.active_words


def test_an_answer_without_a_number_counts_at_once() -> None:
    """Prometheus itself looks no further back than thirty seconds."""
    world = World()
    world.visit()
    world.answer(10)
    world.visit()
    world.now += 5
    assert world.answer(None)
    assert world.visit().active == Reason.METRICS_UNAVAILABLE


def test_who_has_not_asked_for_long_knows_nothing() -> None:
    """As after a while without the lead."""
    world = World()
    world.visit()
    world.answer(20)
    world.now += STALE_SECONDS
    decision = world.visit()
    assert (decision.replicas, decision.active) == (2, Reason.PENDING)


def test_what_was_not_carried_out_is_decided_again() -> None:
    world = World()
    world.visit()
    world.answer(15)
    assert world.visit(done=False).replicas == 3
    assert [after.replicas for *_, after in world.told] == [2], "nothing came of it"
    assert world.visit().replicas == 3
    assert [(before, after.replicas) for _, before, after in world.told] == [(2, 2), (2, 3)]


def test_other_targets_begin_without_samples() -> None:
    world = World()
    world.visit()
    world.answer(10)
    assert world.visit().active == Reason.METRICS_READ
    world.spec = {**world.spec, "targets": [{"metric": "KVCacheUsagePercent", "value": 50}]}
    assert world.visit().active == Reason.PENDING


def test_an_answer_to_a_question_of_the_past_is_dropped() -> None:
    world = World()
    world.visit()
    question = world.scaler.question(CHAT)
    assert question is not None
    world.spec = {**world.spec, "maxReplicas": 3}
    world.visit()
    assert not world.scaler.answered(CHAT, question, Reading((Sample(100, 2),)), frozenset())


def test_a_request_at_zero_is_enough() -> None:
    world = World(0, minReplicas=0)
    assert world.visit().replicas == 0
    assert world.visit(demand=1).replicas == 1


def test_the_last_replica_goes_when_gateways_and_prometheus_agree() -> None:
    world = World(1, minReplicas=0, idleSecondsBeforeZero=10)
    world.visit()
    world.idle = 11.0
    question = world.scaler.question(CHAT)
    assert question is not None
    assert question.activity == 10
    for active, replicas in ((True, 1), (None, 1), (False, 0)):
        world.now += 5
        world.scaler.answered(CHAT, question, Reading((Sample(0.0, 1),), active), frozenset())
        assert world.visit().replicas == replicas


def test_of_several_replicas_nobody_asks_whether_they_are_idle() -> None:
    world = World(2, minReplicas=0)
    world.visit()
    question = world.scaler.question(CHAT)
    assert question is not None
    assert question.activity == 0


@pytest.mark.parametrize("spec", [{}, {"autoscaling": None}])
def test_without_autoscaling_nothing_is_kept(spec: Manifest) -> None:
    world = World()
    world.visit()
    assert world.scaler.services() == (CHAT,)
    live = service(**spec)
    assert world.scaler.visit(CHAT, Observed(live), NOW) is None
    assert world.scaler.services() == ()
    assert world.scaler.question(CHAT) is None


def test_a_spec_that_cannot_be_read_takes_nothing_away() -> None:
    world = World()
    world.visit()
    broken = service(autoscaling={"maxReplicas": "many"})
    assert world.scaler.visit(CHAT, Observed(broken), NOW) is None
    assert world.scaler.services() == (CHAT,)


def test_another_service_of_the_same_name_begins_anew() -> None:
    world = World()
    world.visit()
    world.answer(10)
    live = world.live()
    live["metadata"]["uid"] = "another"
    decision = world.scaler.visit(CHAT, settled(live, ready_pod(live)), NOW)
    assert decision is not None
    assert decision.active == Reason.PENDING


def test_what_was_written_down_and_not_brought_about_counts_for_the_policies() -> None:
    """The status took the size, the Deployment was refused: the next visit starts from the new size."""
    policies = [{"type": "Replicas", "value": 1, "periodSeconds": 60}]
    world = World(behavior={"scaleUp": {"policies": policies}})
    world.visit()
    world.answer(40)
    assert world.visit(done=False).replicas == 3
    world.size = 3
    decision = world.visit()
    assert (decision.replicas, decision.limit) == (3, Reason.RATE_LIMITED)


def test_a_service_on_its_way_out_is_asked_about_no_more() -> None:
    world = World()
    world.visit()
    live = world.live()
    live["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert world.scaler.visit(CHAT, Observed(live), NOW) is None
    assert world.scaler.services() == ()


def test_while_reasons_come_and_go_a_visit_says_what_the_status_says() -> None:
    world = World()
    world.visit()
    said = []
    for number in range(40):
        world.now += 5
        world.answer(10 if number % 2 else None)
        said.append(world.visit().active)
    changes = sum(one != other for one, other in pairwise(said))
    assert changes <= 40 * 5 / 30 + 5
