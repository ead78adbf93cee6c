"""Once a second the metrics that are not counted but looked up: who leads, who is heard, what waits, how services are.

The look is made on the event loop, so a loop that is stuck makes none: what a scrape then gets are the figures of
before, beside an age of the queue that goes on growing. Reads manifests leniently: a spec that nobody can run is no
reason to end.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.api.wire import Manifest, section
from ryzanstein_operator.cluster.cache import Cache
from ryzanstein_operator.cluster.lease import Lease
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.cluster.views import Views
from ryzanstein_operator.telemetry import Metrics, Size

LOOK_SECONDS: Final = 1.0
Backlog = tuple[int, float | None]
"""How many keys are due, and since when the one that has waited longest."""
_ACTIVE: Final = {Reason.METRICS_READ: True, Reason.AT_ZERO: True, Reason.METRICS_UNAVAILABLE: False}


class Figures:
    """`run()` goes on until it is cancelled."""

    def __init__(
        self, cache: Cache, views: Views, lease: Lease, backlog: Callable[[], Backlog], metrics: Metrics
    ) -> None:
        self._cache, self._views, self._lease = cache, views, lease
        self._backlog, self._metrics = backlog, metrics

    async def run(self) -> None:
        """Look, and look again."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Take down what is so now. Of services and of the queue only the leader tells."""
        leads = self._lease.held()
        services = self._cache.all(SERVICES) if leads else ()
        self._metrics.leading(leads)
        self._metrics.gateways_heard.set(self._views.heard())
        self._metrics.queued(*(self._backlog() if leads else (0, None)))
        self._metrics.count_services(conditions(services))
        self._metrics.sizes({(one["metadata"]["namespace"], one["metadata"]["name"]): size(one) for one in services})
        if not leads:
            self._metrics.count_nodes({})


def conditions(services: tuple[Manifest, ...]) -> Counter[tuple[str, str]]:
    """How many services there are by condition and its status."""
    return Counter(
        (condition["type"], condition["status"])
        for service in services
        for condition in section(service, "status").get("conditions") or ()
    )


def size(service: Manifest) -> Size:
    """A service's replicas, as its spec and its status say."""
    spec, status = section(service, "spec"), section(service, "status")
    autoscaling = section(spec, "autoscaling")
    return Size(
        desired=_number(status.get("desiredReplicas"), _number(spec.get("replicas"), 1)),
        ready=_number(status.get("readyReplicas"), 0),
        maximum=_number(autoscaling.get("maxReplicas"), 0) if autoscaling else None,
        active=_active(status) if autoscaling else None,
    )


def _number(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _active(status: Manifest) -> bool | None:
    """None as long as nothing has been decided."""
    found = [one for one in status.get("conditions") or () if one["type"] == ConditionType.SCALING_ACTIVE]
    return _ACTIVE.get(found[0]["reason"]) if found else None
