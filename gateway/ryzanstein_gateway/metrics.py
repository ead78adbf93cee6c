"""The gateway's own Prometheus metrics.

Knows names, labels and buckets. A Gauge here is a part of the sum over the gateway's processes: "livesum" (see
exposition.py). The label `model` takes names of the route table only, so no client can grow it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

IN_FLIGHT: Final = "ryzanstein_gateway_requests_in_flight"
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}


class Standing(Protocol):
    """How one replica stands. `against` is one word, empty where it is sound; `breaker` its phase."""

    @property
    def model(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def against(self) -> str: ...
    @property
    def breaker(self) -> str: ...


class Metrics:
    """What is counted as it happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ryzanstein_gateway_requests", "Requests answered; the model is empty where none was found.",
            ["model", "code", "protocol"], registry=self.registry,
        )  # fmt: skip
        self.duration = Histogram(
            "ryzanstein_gateway_request_duration_seconds", "From a request's head to its reply's last byte.",
            ["model"], buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            "ryzanstein_gateway_time_to_first_byte_seconds", "From a request's head to its reply's first body byte.",
            ["model"], buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            IN_FLIGHT, "Requests being forwarded.", ["model"], registry=self.registry, multiprocess_mode="livesum"
        )
        self.queue_length = Gauge(
            "ryzanstein_gateway_queue_length", "Requests that wait for a replica.",
            ["model", "priority"], registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.queue_wait = Histogram(
            "ryzanstein_gateway_queue_wait_seconds", "Time in the queue of those that waited and went on.",
            ["model", "priority"], buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.admissions = Counter(
            "ryzanstein_gateway_admissions", "Requests that went on (admitted), or why they were turned away.",
            ["model", "priority", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.upstream_retries = Counter(
            "ryzanstein_gateway_upstream_retries", "Requests sent to another replica because one has not begun them.",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.migrations = Counter(
            "ryzanstein_gateway_migrations", "Losses of a replica with a request, by what became of the request.",
            ["model", "reason", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.migration_gap = Histogram(
            "ryzanstein_gateway_migration_gap_seconds", "Time without a byte that a stream's client saw at a loss.",
            ["model"], buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.checks_failed = Counter(
            "ryzanstein_gateway_health_checks_failed", "Health pages of replicas that could not be read.",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.ejections = Counter(
            "ryzanstein_gateway_ejections", "Replicas left out for a while as outliers.", registry=self.registry
        )
        self.routing_choices = Counter(
            "ryzanstein_gateway_routing_choices", "Replicas chosen, by what decided it (balance.Why).",
            ["model", "policy", "why"], registry=self.registry,
        )  # fmt: skip
        self.auth_failures = Counter(
            "ryzanstein_gateway_auth_failures", "Requests without a valid key.", registry=self.registry
        )


@dataclass(frozen=True, slots=True)
class View(Collector):
    """What is looked up when Prometheus asks: from snapshots only, the scrape runs on another thread."""

    endpoints_ready: Callable[[], Iterable[tuple[str, int]]]
    """Each model and how many of its endpoints are ready."""
    watch_ages: Callable[[], Iterable[tuple[str, float]]]
    """Each watch and the seconds since the API server last said anything on it."""
    routes_stale: Callable[[], bool]
    """Whether the newest route table could not be read and an older one is in force."""
    standings: Callable[[], Iterable[Standing]] = tuple
    """How each replica stands."""
    views_told_at: Callable[[], float] = float
    """When the operator last took this gateway's view of the replicas: Unix seconds, 0 where it never has."""
    certificate_expires_at: Callable[[], float | None] = lambda: None
    """When the certificate in force expires: Unix seconds, None where there is none."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they are now."""
        ready = GaugeMetricFamily("ryzanstein_gateway_endpoints_ready", "Ready replicas.", labels=["model"])
        for model, count in self.endpoints_ready():
            ready.add_metric([model], count)
        yield ready
        age = GaugeMetricFamily(
            "ryzanstein_gateway_watch_age_seconds", "Since the API server was last heard.", labels=["watch"]
        )
        for watch, seconds in self.watch_ages():
            age.add_metric([watch], seconds)
        yield age
        stale = "The newest route table cannot be read; an older one is in force."
        yield GaugeMetricFamily("ryzanstein_gateway_routes_stale", stale, value=float(self.routes_stale()))
        if told_at := self.views_told_at():
            name = "ryzanstein_gateway_views_told_timestamp_seconds"
            yield GaugeMetricFamily(name, "When the operator last took the view of the replicas.", value=told_at)
        if (expires_at := self.certificate_expires_at()) is not None:
            name = "ryzanstein_gateway_tls_certificate_expiry_timestamp_seconds"
            yield GaugeMetricFamily(name, "When the certificate in force expires.", value=expires_at)
        yield from self._standings()

    def _standings(self) -> Iterator[GaugeMetricFamily]:
        replica = ["model", "endpoint"]
        breaker = GaugeMetricFamily(
            "ryzanstein_gateway_breaker_state", "0 closed, 1 half-open, 2 open.", labels=replica
        )
        unsound = GaugeMetricFamily(
            "ryzanstein_gateway_replica_unsound", "1 while a replica is avoided, and why.", labels=[*replica, "reason"]
        )
        for one in self.standings():
            breaker.add_metric([one.model, one.endpoint], _BREAKER[one.breaker])
            if one.against:
                unsound.add_metric([one.model, one.endpoint, one.against], 1)
        yield breaker
        yield unsound
