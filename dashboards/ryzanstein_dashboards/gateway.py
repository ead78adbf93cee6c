"""The page on the gateways: traffic, latency, who waits, which replica was chosen and why, what was lost."""

from typing import Final

from ryzanstein_dashboards.gateway_replicas import FAILOVER, MODELS, PODS, PROCESSES, READY, ROUTING
from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Variable
from ryzanstein_dashboards.promql import aggregated, or_zero, quantile, rate, select
from ryzanstein_dashboards.shapes import ANY_IS_BAD, TOKENS_A_SECOND, failed, line, quantiles, stat

_WAITED: Final = "no request has had to wait yet"

VARIABLES: Final = (
    Variable("release", "Gateways' namespace", READY, "namespace"),
    Variable("gateways", "Gateways", f'{READY}{{namespace="$release"}}', "pod", many=True),
    Variable("models", "Models", f'{READY}{{namespace="$release"}}', "model", many=True),
)

_NOW: Final = Row(
    "Now",
    (
        stat("Requests", "Requests that are answered, of all kinds.", "reqps",
             rate("ryzanstein_gateway_requests_total", MODELS)),
        stat("In flight", "Requests that replicas work on.", "short",
             aggregated("sum", select("ryzanstein_gateway_requests_in_flight", MODELS))),
        stat("Waiting", "Requests that wait for a replica, or for a place in one.", "short",
             or_zero(aggregated("sum", select("ryzanstein_gateway_queue_length", MODELS)))),
        failed(MODELS),
        stat("First byte, 95th percentile", "95 of 100 answers begin within this time.", "s",
             quantile(0.95, "ryzanstein_gateway_time_to_first_byte_seconds", MODELS)),
        stat("Route table", "1 while the newest route table cannot be read, and an older one is in force.", "short",
             aggregated("max", select("ryzanstein_gateway_routes_stale", PODS)), steps=ANY_IS_BAD),
    ),
)  # fmt: skip

_TRAFFIC: Final = Row(
    "Traffic",
    (
        Panel(
            "Requests by status",
            "Requests that are answered, by HTTP status.",
            "reqps",
            (Query(rate("ryzanstein_gateway_requests_total", MODELS, "code"), "{{code}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Requests by model and protocol",
            "Requests that are answered, by model, and by http, websocket or grpc.",
            "reqps",
            (Query(rate("ryzanstein_gateway_requests_total", MODELS, "model, protocol"), "{{model}} {{protocol}}"),),
            kind=Kind.STACK,
        ),
        line(
            "In flight by pod",
            "Requests that replicas work on, by gateway pod: how evenly clients are spread.",
            "short",
            aggregated("sum", select("ryzanstein_gateway_requests_in_flight", MODELS), "pod"),
            "{{pod}}",
        ),
        quantiles(
            "Time to first byte",
            "From a request's head to the first byte of its answer.",
            "ryzanstein_gateway_time_to_first_byte_seconds",
            MODELS,
        ),
        quantiles(
            "Duration",
            "From a request's head to the last byte of its answer.",
            "ryzanstein_gateway_request_duration_seconds",
            MODELS,
        ),
        quantiles(
            "Time in the queue",
            "Of requests that had to wait and went on.",
            "ryzanstein_gateway_queue_wait_seconds",
            MODELS,
            quiet=_WAITED,
        ),
    ),
)

_STREAMS: Final = Row(
    "Streams and connections",
    (
        quantiles(
            "Time to first token",
            "From a stream's head to its first token: what a user waits, the queue included.",
            "ryzanstein_gateway_time_to_first_token_seconds",
            MODELS,
            quiet="no request streams",
        ),
        quantiles(
            "Time per output token",
            "Of each stream the mean, moves to other replicas included.",
            "ryzanstein_gateway_time_per_output_token_seconds",
            MODELS,
            quiet="no request streams",
        ),
        Panel(
            "Open streams and WebSockets",
            "Requests that stream now, and WebSockets with or without a request on them.",
            "short",
            (
                Query(aggregated("sum", select("ryzanstein_gateway_streams_open", MODELS)), "streams"),
                Query(aggregated("sum", select("ryzanstein_gateway_websockets_open", PODS)), "WebSockets"),
            ),
        ),
        Panel(
            "Tokens",
            "Prompt tokens and generated tokens, as replicas told them.",
            TOKENS_A_SECOND,
            (
                Query(rate("ryzanstein_gateway_prompt_tokens_total", MODELS, "model"), "{{model}} prompt"),
                Query(rate("ryzanstein_gateway_generation_tokens_total", MODELS, "model"), "{{model}} generated"),
            ),
        ),
        Panel(
            "Size of requests",
            "Bytes of a body that is forwarded.",
            "bytes",
            tuple(
                Query(quantile(share, "ryzanstein_gateway_request_size_bytes", MODELS), words)
                for share, words in ((0.5, "median"), (0.95, "95th percentile"))
            ),
        ),
        quantiles(
            "New connections to replicas",
            "Until the connection was there. Most requests use one that is open already.",
            "ryzanstein_gateway_upstream_connect_seconds",
            PODS,
            quiet="no connection to a replica was opened lately",
        ),
    ),
)

_ADMISSION: Final = Row(
    "Admission",
    (
        line(
            "Waiting by priority",
            "Requests that wait for a replica, by model and priority.",
            "short",
            aggregated("sum", select("ryzanstein_gateway_queue_length", MODELS), "model, priority"),
            "{{model}} {{priority}}",
            quiet=_WAITED,
            span=6,
        ),
        Panel(
            "Let in, or why not",
            "Requests by what became of them at the door.",
            "reqps",
            (Query(rate("ryzanstein_gateway_admissions_total", MODELS, "outcome"), "{{outcome}}"),),
            kind=Kind.STACK,
            span=6,
        ),
        line(
            "Requests without a valid key",
            "Requests that were refused with 401.",
            "reqps",
            rate("ryzanstein_gateway_auth_failures_total", PODS),
            "refused",
            span=6,
        ),
        line(
            "Services woken",
            "Times that the operators were told that requests wait and no replica is there: heard, or unheard.",
            "ops",
            rate("ryzanstein_gateway_wake_calls_total", PODS, "outcome"),
            "{{outcome}}",
            span=6,
        ),
    ),
)

GATEWAY: Final = Dashboard(
    uid="ryzanstein-gateway",
    title="Ryzanstein: gateway",
    description="The gateways' pods: traffic, admission, routing, failover, processes.",
    rows=(_NOW, _TRAFFIC, _STREAMS, _ADMISSION, ROUTING, FAILOVER, PROCESSES),
    variables=VARIABLES,
)
