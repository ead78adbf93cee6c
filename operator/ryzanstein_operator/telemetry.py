"""What happens in the operator, told to its instruments in the operator's own words. Knows no name of a metric."""

import time
from collections import Counter as Counting
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from ryzanstein_operator.decide.observed import NodeVerdict
from ryzanstein_operator.instruments import Instruments

_DIRECTIONS: Final = ("up", "down", "same", "held")


@dataclass(frozen=True)
class Size:
    """One service's replicas. maximum and active: None where spec.autoscaling is not set."""

    desired: int
    ready: int
    maximum: int | None = None
    active: bool | None = None


class Metrics(Instruments):
    """What one operator process measures. Its methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._led = False
        self._decided: set[tuple[str, str]] = set()

    # --- visits ------------------------------------------------------------------------------------

    def visited(self, seconds: float, result: str, trace_id: str = "") -> None:
        """A visit has ended. trace_id: of its trace, where there is one; it becomes the exemplar."""
        self.reconciles.labels(result).inc()
        exemplar = {"trace_id": trace_id} if trace_id else None
        self.reconcile_duration.labels(result).observe(seconds, exemplar)

    def queued(self, depth: int, due_since: float | None) -> None:
        """How many keys are due, and since when (of the clock) the one that has waited longest; None: none is due."""
        self.queue_depth.set(depth)
        self._due_since = due_since

    # --- calls -------------------------------------------------------------------------------------

    def requested(self, verb: str, status: int, seconds: float, *, again: bool) -> None:
        """One attempt at a call to the API server. status: 0 where no answer came; again: it followed a failed one."""
        self.api_request_duration.labels(verb, f"{status // 100}xx" if status else "none").observe(seconds)
        if again:
            self.api_request_retries.labels(verb).inc()

    # --- leadership --------------------------------------------------------------------------------

    def leading(self, held: bool) -> None:
        """Whether this process holds the Lease now."""
        self.leader.set(held)
        if held != self._led:
            self._led = held
            self.leader_transitions.inc()

    # --- services and nodes ------------------------------------------------------------------------

    def count_nodes(self, verdicts: Mapping[str, NodeVerdict]) -> None:
        """Replace the number of nodes for each reason."""
        counts = Counting(verdict.reason for verdict in verdicts.values())
        self.unhealthy_nodes.replace({(reason,): number for reason, number in counts.items()})

    def count_services(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Replace the number of services for each (condition, status)."""
        self.services.replace(counts)

    def sizes(self, sizes: Mapping[tuple[str, str], Size]) -> None:
        """Replace what is known of all services, by (namespace, name). One that is not named has no series any more."""
        self.desired_replicas.replace({key: size.desired for key, size in sizes.items()})
        self.ready_replicas.replace({key: size.ready for key, size in sizes.items()})
        self.max_replicas.replace({key: size.maximum for key, size in sizes.items() if size.maximum is not None})
        self.scaling_active.replace({key: size.active for key, size in sizes.items() if size.active is not None})
        for key in self._decided - sizes.keys():
            self._decided.discard(key)
            for direction in _DIRECTIONS:
                self.scaling_decisions.remove(*key, direction)

    # --- autoscaling -------------------------------------------------------------------------------

    def decided(self, namespace: str, name: str, before: int, after: int, *, active: bool) -> None:
        """The size of a service was decided about. active: by its targets, which could be read."""
        direction = "up" if after > before else "down" if after < before else "same" if active else "held"
        if (namespace, name) not in self._decided:
            self._decided.add((namespace, name))
            for one in _DIRECTIONS:  # all at once, at zero: the first step up is an increase as well
                self.scaling_decisions.labels(namespace, name, one)
        self.scaling_decisions.labels(namespace, name, direction).inc()

    def queried(self, seconds: float, failure: str = "") -> None:
        """A query to Prometheus. failure: why it brought no usable number, one of a few words; empty where it did."""
        self.query_duration.observe(seconds)
        if failure:
            self.query_failures.labels(failure).inc()

    # -----------------------------------------------------------------------------------------------

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """A page and its content type: OpenMetrics, with exemplars, where the Accept header asks for it, else the
        Prometheus text format. A header that is nonsense asks for nothing."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # the library compares a version that is none with one that is
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(self.registry), content_type
