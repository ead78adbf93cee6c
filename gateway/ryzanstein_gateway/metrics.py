"""The gateway's own Prometheus metrics.

Knows names, labels and buckets; each HELP text is the metric's documentation (docs/metrics.md is made of them). A Gauge
here is a part of the sum over the gateway's processes: "livesum" (see exposition.py). The label `model` takes names of
the route table only, so no client can grow it.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

IN_FLIGHT: Final = "ryzanstein_gateway_requests_in_flight"
DURATION: Final = "ryzanstein_gateway_request_duration_seconds"
FIRST_BYTE: Final = "ryzanstein_gateway_time_to_first_byte_seconds"
FIRST_TOKEN: Final = "ryzanstein_gateway_time_to_first_token_seconds"  # noqa: S105 - no secret
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds, of a request or a part of it."""
_QUICK: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_TOKEN: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_BYTES: Final = tuple(4.0**power for power in range(3, 13))
"""64 bytes to 16 MiB."""
HEARD, UNHEARD = "heard", "unheard"


class Metrics:
    """What is counted as it happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests()
        self._tokens()
        self._queue()
        self._replicas()
        self._pod()

    def _requests(self) -> None:
        self.requests = Counter(
            "ryzanstein_gateway_requests",
            "Requests answered, by HTTP status (499: the client left first) and protocol (http, websocket, grpc). "
            "The model is empty where none was found.",
            ["model", "code", "protocol"], registry=self.registry,
        )  # fmt: skip
        self.duration = Histogram(
            DURATION, "Seconds from a request's head to its reply's last byte; with exemplars where it is traced.",
            ["model"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            FIRST_BYTE,
            "Seconds from a request's head to its reply's first body byte, the queue included; with exemplars where it "
            "is traced.",
            ["model"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.first_token = Histogram(
            FIRST_TOKEN,
            "Seconds from a request's head until the first token of its stream comes from a replica: what a user "
            "waits, the queue and any lost replica included. Of streams from Ryzanstein's workers, which tell their "
            "tokens; with exemplars where it is traced.",
            ["model"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.token_time = Histogram(
            "ryzanstein_gateway_time_per_output_token_seconds",
            "Seconds per token after the first, averaged over each stream, moves to other replicas included. Of "
            "streams from Ryzanstein's workers.",
            ["model"], buckets=_TOKEN, registry=self.registry,
        )  # fmt: skip
        self.size = Histogram(
            "ryzanstein_gateway_request_size_bytes", "Bytes of each body that is to be forwarded.",
            ["model"], buckets=_BYTES, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            IN_FLIGHT, "Requests that are being forwarded now.", ["model"],
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.streams = Gauge(
            "ryzanstein_gateway_streams_open", "Those of them that asked for a stream.", ["model"],
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip

        self.timed = {DURATION: self.duration, FIRST_BYTE: self.first_byte, FIRST_TOKEN: self.first_token}

    def _tokens(self) -> None:
        self.prompt_tokens = Counter(
            "ryzanstein_gateway_prompt_tokens",
            "Tokens of prompts, as replicas told them. Servers that tell none count nothing.",
            ["model"], registry=self.registry,
        )  # fmt: skip
        self.generation_tokens = Counter(
            "ryzanstein_gateway_generation_tokens",
            "Tokens of answers, as replicas told them; of a stream those that were handed on.",
            ["model"], registry=self.registry,
        )  # fmt: skip

    def _queue(self) -> None:
        self.queue_length = Gauge(
            "ryzanstein_gateway_queue_length", "Requests that wait now for a replica, or for room at one.",
            ["model", "priority"], registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.queue_wait = Histogram(
            "ryzanstein_gateway_queue_wait_seconds", "Seconds in the queue of those requests that waited and went on.",
            ["model", "priority"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.admissions = Counter(
            "ryzanstein_gateway_admissions",
            "Requests that went on (admitted), or why they were turned away: rate_limited by the key's limits, "
            "queue_full, too_late (the wait would be too long), timeout (it was), no_replica.",
            ["model", "priority", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.wake_calls = Counter(
            "ryzanstein_gateway_wake_calls",
            "Times that the operators were told that requests wait and no replica is there: heard by the one that "
            "leads, or unheard.",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        for outcome in (HEARD, UNHEARD):  # a series that is not there yet has no rate
            self.wake_calls.labels(outcome)

    def _replicas(self) -> None:
        self.upstream_retries = Counter(
            "ryzanstein_gateway_upstream_retries",
            "Requests sent to another replica because one had not begun them, by why it had not.",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.connect = Histogram(
            "ryzanstein_gateway_upstream_connect_seconds",
            "Seconds until a new connection to a replica was there. Most requests use one that is open already.",
            buckets=_QUICK, registry=self.registry,
        )  # fmt: skip
        self.migrations = Counter(
            "ryzanstein_gateway_migrations",
            "Replicas lost with a request in them, by how (crash, hang, drain ...) and what became of the request: "
            "resumed or begun anew elsewhere, given up, or in quarantine.",
            ["model", "reason", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.migration_gap = Histogram(
            "ryzanstein_gateway_migration_gap_seconds",
            "Seconds without a byte that a stream's client saw when its replica was lost and another went on.",
            ["model"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.checks_failed = Counter(
            "ryzanstein_gateway_health_checks_failed",
            "Health pages of replicas that could not be read: refused (nobody listens), failed (no answer in time), "
            "broken (no page).",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.ejections = Counter(
            "ryzanstein_gateway_ejections", "Replicas left out for a while because they do much worse than the others.",
            registry=self.registry,
        )  # fmt: skip
        self.routing_choices = Counter(
            "ryzanstein_gateway_routing_choices", "Replicas chosen, by the model's policy and what decided it.",
            ["model", "policy", "why"], registry=self.registry,
        )  # fmt: skip

    def _pod(self) -> None:
        self.sockets = Gauge(
            "ryzanstein_gateway_websockets_open", "WebSockets that are open now, with or without a request on them.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.auth_failures = Counter(
            "ryzanstein_gateway_auth_failures", "Requests without a valid key.", registry=self.registry
        )
