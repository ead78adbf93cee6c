"""What to say of requests that wait at the gateways for a replica. Pure."""

from collections.abc import Iterator

from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.observed import Demand
from ryzanstein_operator.decide.plan import EmitEvent


def demand_events(demand: Demand | None, size: str) -> Iterator[EmitEvent]:
    """One Event for each time that requests begin to wait; it is counted up, not repeated, while they go on to.

    size: how many replicas there are to be, in words: also a service whose spec cannot be run has requests waiting.
    """
    if demand is None or demand.spoken:
        return
    requests = "1 request waits" if demand.waiting == 1 else f"{demand.waiting} requests wait"
    yield EmitEvent("Normal", Reason.REQUESTS_WAITING, f"{requests} for a replica; {size}")


def size_words(live: Manifest, replicas: int | None) -> str:
    """How many replicas there are to be. replicas: what spec.autoscaling has come to; None without it."""
    spec = live.get("spec")
    wanted = replicas
    if wanted is None:
        wanted = spec.get("replicas", 1) if isinstance(spec, dict) else 1
    what = f"spec.replicas is {wanted}" if replicas is None else f"spec.autoscaling has come to {wanted}"
    return what if wanted == 0 else f"{what} and none takes requests"
