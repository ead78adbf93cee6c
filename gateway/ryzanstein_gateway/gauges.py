"""What Prometheus is told that nobody counts: looked up when it asks.

Knows names and labels, and asks others by functions; of several processes each sends what it sees to the parent, which
shows the highest value (exposition.merged).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ryzanstein_worker.contract import VERSION

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
        info = GaugeMetricFamily(
            "ryzanstein_gateway_info", "Always 1; the label says which version of Ryzanstein runs.", labels=["version"]
        )
        info.add_metric([VERSION], 1)
        yield info
        yield from self._cluster()
        if told_at := self.views_told_at():
            name = "ryzanstein_gateway_views_told_timestamp_seconds"
            words = "When the operator that leads last took this pod's view of the replicas: Unix seconds."
            yield GaugeMetricFamily(name, f"{words} No series before the first time.", value=told_at)
        if (expires_at := self.certificate_expires_at()) is not None:
            name = "ryzanstein_gateway_tls_certificate_expiry_timestamp_seconds"
            words = "When the certificate in force expires: Unix seconds. Only where the gateway has one."
            yield GaugeMetricFamily(name, words, value=expires_at)
        yield from self._standings()

    def _cluster(self) -> Iterator[GaugeMetricFamily]:
        ready = GaugeMetricFamily(
            "ryzanstein_gateway_endpoints_ready",
            "Replicas that Kubernetes calls ready and that stay.",
            labels=["model"],
        )
        for model, count in self.endpoints_ready():
            ready.add_metric([model], count)
        yield ready
        age = GaugeMetricFamily(
            "ryzanstein_gateway_watch_age_seconds",
            "Seconds since the API server last said anything on a watch. What is known stays in force meanwhile.",
            labels=["watch"],
        )
        for watch, seconds in self.watch_ages():
            age.add_metric([watch], seconds)
        yield age
        stale = "1 while the newest route table cannot be read and an older one is in force."
        yield GaugeMetricFamily("ryzanstein_gateway_routes_stale", stale, value=float(self.routes_stale()))

    def _standings(self) -> Iterator[GaugeMetricFamily]:
        replica = ["model", "endpoint"]
        breaker = GaugeMetricFamily(
            "ryzanstein_gateway_breaker_state", "A replica's circuit breaker: 0 closed, 1 half-open, 2 open.",
            labels=replica,
        )  # fmt: skip
        unsound = GaugeMetricFamily(
            "ryzanstein_gateway_replica_unsound", "1 while a replica is avoided, by why; no series while it is sound.",
            labels=[*replica, "reason"],
        )  # fmt: skip
        for one in self.standings():
            breaker.add_metric([one.model, one.endpoint], _BREAKER[one.breaker])
            if one.against:
                unsound.add_metric([one.model, one.endpoint, one.against], 1)
        yield breaker
        yield unsound
