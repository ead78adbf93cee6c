"""The operator's own metrics, in a registry of their own. Knows names and units; measures nothing itself."""

from collections import Counter as Counting
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ryzanstein_operator.decide.observed import NodeVerdict

_PREFIX = "ryzanstein_operator"


class Metrics:
    """Counters and gauges of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_duration = Histogram(
            f"{_PREFIX}_reconcile_duration_seconds", "Time of one visit.", registry=self.registry
        )
        self.reconciles = Counter(
            f"{_PREFIX}_reconcile", "Visits by result: done, retry, failed.", ["result"], registry=self.registry
        )
        self.reconcile_errors = Counter(
            f"{_PREFIX}_reconcile_errors", "Visits that ended in an error.", registry=self.registry
        )
        self.queue_depth = Gauge(f"{_PREFIX}_queue_depth", "Services that wait for a visit.", registry=self.registry)
        self.writes = Counter(
            f"{_PREFIX}_writes", "Writes that the API server took.", ["kind", "verb"], registry=self.registry
        )
        self.leader = Gauge(f"{_PREFIX}_leader", "1 while this process holds the Lease.", registry=self.registry)
        self.watch_freshness = Gauge(
            f"{_PREFIX}_watch_freshness_seconds", "How long a known change has not come back.", registry=self.registry
        )
        self.services = Gauge(
            f"{_PREFIX}_services", "Services by condition.", ["condition", "status"], registry=self.registry
        )
        self.unhealthy_nodes = Gauge(
            f"{_PREFIX}_unhealthy_nodes",
            "Nodes with replicas that cannot be counted on.",
            ["reason"],
            registry=self.registry,
        )
        self.failover_deletions = Counter(
            f"{_PREFIX}_failover_deletions", "Pods deleted because of their node.", registry=self.registry
        )

    def count_nodes(self, verdicts: Mapping[str, NodeVerdict]) -> None:
        """Replace the number of nodes for each reason."""
        self.unhealthy_nodes.clear()
        for reason, number in Counting(verdict.reason for verdict in verdicts.values()).items():
            self.unhealthy_nodes.labels(reason).set(number)

    def count_services(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Replace the number of services for each (condition, status)."""
        self.services.clear()
        for (condition, status), number in counts.items():
            self.services.labels(condition, status).set(number)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
