"""The operator's instruments: every name, unit, label and HELP text, in a registry of their own. Measures nothing.

HELP texts are the documentation: docs/metrics.md is made of them. Only the operator that leads has series about
services and nodes; of one that stands by they would be the same ones a second time. Its queue counts as empty: it
visits nothing.
"""

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from ryzanstein_operator.gauges import GaugeTable
from ryzanstein_worker import contract

_PREFIX: Final = "ryzanstein_operator"
SERVICE_LABELS: Final = ("namespace", "name")
_VISIT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Instruments:
    """All of one operator process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._due_since: float | None = None
        self._make_visits()
        self._make_calls()
        self._make_leadership()
        self._make_services()
        self._make_scaling()

    def _make_visits(self) -> None:
        self.reconcile_duration = Histogram(
            f"{_PREFIX}_reconcile_duration_seconds",
            "Time of one visit to a service, to the route table or to the nodes, from the look at the cluster to the "
            "last write, in seconds. result: done; retry (something was refused or in the way, and it is visited "
            "again); failed (an error, as when the API server cannot be reached); not_leading (the Lease was lost "
            "meanwhile).",
            ["result"],
            buckets=_VISIT_BUCKETS,
            registry=self.registry,
        )
        self.reconciles = Counter(f"{_PREFIX}_reconcile", "Visits by result.", ["result"], registry=self.registry)
        self.reconcile_errors = Counter(
            f"{_PREFIX}_reconcile_errors", "Visits that ended in an error.", registry=self.registry
        )
        self.queue_depth = Gauge(
            f"{_PREFIX}_queue_depth",
            "Keys that are due for a visit and wait for it.",
            registry=self.registry,
        )
        self.queue_oldest = Gauge(
            f"{_PREFIX}_queue_oldest_seconds",
            "For how long the key has been due that has waited longest, in seconds; 0 where none is due. It goes on "
            "growing while the operator's event loop is stuck.",
            registry=self.registry,
        )
        self.queue_oldest.set_function(self._oldest)
        self.queue_wait = Histogram(
            f"{_PREFIX}_queue_wait_seconds",
            "How much later than due a visit began, in seconds: time in the queue beyond the delay that was meant.",
            buckets=_VISIT_BUCKETS,
            registry=self.registry,
        )
        self.queue_retries = Counter(
            f"{_PREFIX}_queue_retries", "Keys that were put back with a backoff.", registry=self.registry
        )

    def _make_calls(self) -> None:
        self.api_request_duration = Histogram(
            f"{_PREFIX}_api_request_duration_seconds",
            "Time of one attempt at a call to the API server, in seconds. verb: the HTTP method as Kubernetes names "
            "it (get, create, update, patch, delete), and list; code: the class of the answer's status (2xx, 4xx, "
            "5xx), or none where no answer came. Watches are not in it.",
            ["verb", "code"],
            buckets=_CALL_BUCKETS,
            registry=self.registry,
        )
        self.api_request_retries = Counter(
            f"{_PREFIX}_api_request_retries",
            "Attempts at a call to the API server that followed one that failed for what may pass by itself.",
            ["verb"],
            registry=self.registry,
        )
        self.writes = Counter(
            f"{_PREFIX}_writes", "Writes that the API server took.", ["kind", "verb"], registry=self.registry
        )
        self.watch_freshness = Gauge(
            f"{_PREFIX}_watch_freshness_seconds",
            "For how long a change that is known has not come back through the watch, in seconds; 0 while all have. "
            "Above 60 the watch counts as dead, and the operator's liveness probe fails.",
            registry=self.registry,
        )

    def _make_leadership(self) -> None:
        self.leader = Gauge(
            f"{_PREFIX}_leader", "1 while this process holds the Lease, else 0.", registry=self.registry
        )
        self.leader_transitions = Counter(
            f"{_PREFIX}_leader_transitions",
            "Times that this process took the Lease, or held it no more.",
            registry=self.registry,
        )
        self.gateways_heard = Gauge(
            f"{_PREFIX}_gateways_heard",
            "Gateway pods that have told within the last 10 seconds how they see the replicas.",
            registry=self.registry,
        )
        Info(_PREFIX, "Which version of the operator this process is.", registry=self.registry).info(
            {"version": contract.VERSION}
        )

    def _make_services(self) -> None:
        self.services = self._table(
            "services", "InferenceServices by condition and its status (True, False, Unknown).", "condition", "status"
        )
        self.unhealthy_nodes = self._table(
            "unhealthy_nodes", "Nodes with replicas that cannot be counted on, by reason.", "reason"
        )
        self.failover_deletions = Counter(
            f"{_PREFIX}_failover_deletions", "Pods deleted because of their node.", registry=self.registry
        )
        self.desired_replicas = self._table(
            "desired_replicas",
            "Replicas that are wanted of an InferenceService: spec.replicas, or what spec.autoscaling came to.",
            *SERVICE_LABELS,
        )
        self.ready_replicas = self._table(
            "ready_replicas", "Replicas of an InferenceService that are ready, as its status says.", *SERVICE_LABELS
        )
        self.max_replicas = self._table(
            "max_replicas",
            "spec.autoscaling.maxReplicas of an InferenceService; no series without it.",
            *SERVICE_LABELS,
        )

    def _make_scaling(self) -> None:
        self.scaling_active = self._table(
            "scaling_active",
            "1 while the size of an InferenceService follows its targets, 0 while it is held because they cannot be "
            "read (condition ScalingActive); no series without spec.autoscaling.",
            *SERVICE_LABELS,
        )
        self.scaling_decisions = Counter(
            f"{_PREFIX}_scaling_decisions",
            "Decisions about the size of an InferenceService by direction: up, down, same, or held where the targets "
            "could not be read.",
            [*SERVICE_LABELS, "direction"],
            registry=self.registry,
        )
        self.query_duration = Histogram(
            f"{_PREFIX}_prometheus_query_duration_seconds",
            "Time of one query to Prometheus for a target of autoscaling, in seconds, failed ones included.",
            buckets=_CALL_BUCKETS,
            registry=self.registry,
        )
        self.query_failures = Counter(
            f"{_PREFIX}_prometheus_query_failures",
            "Queries to Prometheus that brought no number that can be used, by why.",
            ["why"],
            registry=self.registry,
        )

    def _table(self, name: str, documentation: str, *labels: str) -> GaugeTable:
        return GaugeTable(f"{_PREFIX}_{name}", documentation, labels, self.registry)

    def _oldest(self) -> float:
        since = self._due_since
        return 0.0 if since is None else max(0.0, self._clock() - since)
