"""What to say of requests that wait at the gateways for a replica. Pure."""

from collections.abc import Iterator

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Demand
from ryzanstein_operator.decide.plan import EmitEvent


def demand_events(service: Manifest, demand: Demand | None) -> Iterator[EmitEvent]:
    """One Event for each time that requests begin to wait; it is counted up, not repeated, while they go on to.

    Speaks of `spec` as it stands in the live manifest: also a service whose spec cannot be run has requests waiting.
    """
    if demand is None or demand.spoken:
        return
    replicas = service["spec"].get("replicas", 1)
    requests = "1 request waits" if demand.waiting == 1 else f"{demand.waiting} requests wait"
    rest = "" if replicas == 0 else " and none takes requests"
    yield EmitEvent("Normal", Reason.REQUESTS_WAITING, f"{requests} for a replica; spec.replicas is {replicas}{rest}")
