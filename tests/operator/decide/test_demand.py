"""What is said of requests that wait: once an episode, with the number of replicas that was asked for."""

from dataclasses import replace

import pytest

from operator_builders import NOW, SETTINGS, ready_pod, service, settled
from ryzanstein_operator.decide.observed import Demand, Observed
from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_operator.decide.reconcile import reconcile


def events(observed: Observed) -> list[str]:
    found = reconcile(observed, SETTINGS, NOW).actions
    return [str(one.message) for one in found if isinstance(one, EmitEvent) and one.reason == "RequestsWaiting"]


@pytest.mark.parametrize(
    ("replicas", "waiting", "sentence"),
    [
        (0, 3, "3 requests wait for a replica; spec.replicas is 0"),
        (0, 1, "1 request waits for a replica; spec.replicas is 0"),
        (2, 7, "7 requests wait for a replica; spec.replicas is 2 and none takes requests"),
    ],
)
def test_waiting_requests_are_told_of_once(replicas: int, waiting: int, sentence: str) -> None:
    observed = Observed(service(replicas=replicas), demand=Demand(waiting))
    assert events(observed) == [sentence]
    assert events(replace(observed, demand=Demand(waiting, spoken=True))) == []
    assert events(replace(observed, demand=None)) == []


def test_also_where_the_spec_cannot_be_run_and_never_of_what_is_being_deleted() -> None:
    broken = service(model={"uri": "ftp://nowhere"})
    assert len(events(Observed(broken, demand=Demand(1)))) == 1
    broken["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert events(Observed(broken, demand=Demand(1))) == []


def test_demand_changes_nothing_else() -> None:
    live = service()
    observed = settled(live, ready_pod(live))
    plain = reconcile(observed, SETTINGS, NOW).actions
    found = reconcile(replace(observed, demand=Demand(1)), SETTINGS, NOW).actions
    assert found[:-1] == plain
