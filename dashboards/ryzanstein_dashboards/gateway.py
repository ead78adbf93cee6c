"""The page on the gateways: traffic, latency, who waits, which replica was chosen and why, what was lost."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Step, Variable
from ryzanstein_dashboards.promql import aggregated, or_zero, quantile, rate, select
from ryzanstein_dashboards.shapes import ANY_IS_BAD, WHERE_NONE_FAILED, failed, line, quantiles, stat

_PODS: Final = 'namespace="$namespace", pod=~"$pod"'
_MODELS: Final = f'{_PODS}, model=~"$model"'
_WAITED: Final = "no request has had to wait yet"
_SEVERAL: Final = "a pod has one process (gateway.processes: 1)"
_READY: Final = "ryzanstein_gateway_endpoints_ready"

VARIABLES: Final = (
    Variable("namespace", "Gateways' namespace", _READY, "namespace"),
    Variable("pod", "Pod", f'{_READY}{{namespace="$namespace"}}', "pod", many=True),
    Variable("model", "Model", f'{_READY}{{namespace="$namespace"}}', "model", many=True),
)

_NOW: Final = Row(
    "Now",
    (
        stat("Requests", "Requests that are answered, of all kinds.", "reqps",
             rate("ryzanstein_gateway_requests_total", _MODELS)),
        stat("In flight", "Requests that replicas work on.", "short",
             aggregated("sum", select("ryzanstein_gateway_requests_in_flight", _MODELS))),
        stat("Waiting", "Requests that wait for a replica, or for a place in one.", "short",
             or_zero(aggregated("sum", select("ryzanstein_gateway_queue_length", _MODELS)))),
        failed(_MODELS),
        stat("First byte, 95th percentile", "95 of 100 answers begin within this time.", "s",
             quantile(0.95, "ryzanstein_gateway_time_to_first_byte_seconds", _MODELS)),
        stat("Route table", "1 while the newest route table cannot be read, and an older one is in force.", "short",
             aggregated("max", select("ryzanstein_gateway_routes_stale", _PODS)), steps=ANY_IS_BAD),
    ),
)  # fmt: skip

_TRAFFIC: Final = Row(
    "Traffic",
    (
        Panel(
            "Requests by status",
            "Requests that are answered, by HTTP status.",
            "reqps",
            (Query(rate("ryzanstein_gateway_requests_total", _MODELS, "code"), "{{code}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Requests by model and protocol",
            "Requests that are answered, by model, and by http, websocket or grpc.",
            "reqps",
            (Query(rate("ryzanstein_gateway_requests_total", _MODELS, "model, protocol"), "{{model}} {{protocol}}"),),
            kind=Kind.STACK,
        ),
        line(
            "In flight by pod",
            "Requests that replicas work on, by gateway pod: how evenly clients are spread.",
            "short",
            aggregated("sum", select("ryzanstein_gateway_requests_in_flight", _MODELS), "pod"),
            "{{pod}}",
        ),
        quantiles(
            "Time to first byte",
            "From a request's head to the first byte of its answer.",
            "ryzanstein_gateway_time_to_first_byte_seconds",
            _MODELS,
        ),
        quantiles(
            "Duration",
            "From a request's head to the last byte of its answer.",
            "ryzanstein_gateway_request_duration_seconds",
            _MODELS,
        ),
        quantiles(
            "Time in the queue",
            "Of requests that had to wait and went on.",
            "ryzanstein_gateway_queue_wait_seconds",
            _MODELS,
            quiet=_WAITED,
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
            aggregated("sum", select("ryzanstein_gateway_queue_length", _MODELS), "model, priority"),
            "{{model}} {{priority}}",
            quiet=_WAITED,
        ),
        Panel(
            "Let in, or why not",
            "Requests by what became of them at the door.",
            "reqps",
            (Query(rate("ryzanstein_gateway_admissions_total", _MODELS, "outcome"), "{{outcome}}"),),
            kind=Kind.STACK,
        ),
        line(
            "Requests without a valid key",
            "Requests that were refused with 401.",
            "reqps",
            rate("ryzanstein_gateway_auth_failures_total", _PODS),
            "refused",
        ),
    ),
)

_ROUTING: Final = Row(
    "Routing",
    (
        line(
            "Ready replicas",
            "Replicas that requests may be sent to, by model.",
            "short",
            aggregated("max", select(_READY, _MODELS), "model"),
            "{{model}}",
        ),
        Panel(
            "Choices",
            "Replicas chosen, by policy and by what decided it.",
            "reqps",
            (Query(rate("ryzanstein_gateway_routing_choices_total", _MODELS, "policy, why"), "{{policy}}: {{why}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Replicas avoided",
            "Replicas that nothing is sent to, by reason.",
            "short",
            (Query(f"sum by (model, reason) (max by (model, reason, endpoint) "
                   f"(ryzanstein_gateway_replica_unsound{{{_MODELS}}}))",
                   "{{model}} {{reason}}", "all replicas are sound"),),
            steps=ANY_IS_BAD,
        ),
        Panel(
            "Circuit breakers",
            "0 closed, 1 half-open, 2 open: the worst of each model's replicas.",
            "short",
            (Query(aggregated("max", select("ryzanstein_gateway_breaker_state", _MODELS), "model"), "{{model}}"),),
            steps=(Step(1, "orange"), Step(2, "red")),
        ),
        Panel(
            "Ejections",
            "Replicas that are left out for a while as outliers.",
            "ops",
            (Query(rate("ryzanstein_gateway_ejections_total", _PODS), "ejections"),),
        ),
        line(
            "Failed health checks",
            "Health pages of replicas that could not be read, by reason.",
            "ops",
            rate("ryzanstein_gateway_health_checks_failed_total", _PODS, "reason"),
            "{{reason}}",
            quiet="all replicas answered their checks",
        ),
    ),
)  # fmt: skip

_FAILOVER: Final = Row(
    "Failover",
    (
        line(
            "Tries elsewhere",
            "Requests sent to another replica because one had not begun them, by reason.",
            "reqps",
            rate("ryzanstein_gateway_upstream_retries_total", _PODS, "reason"),
            "{{reason}}",
            quiet=WHERE_NONE_FAILED,
        ),
        line(
            "Replicas lost with a request in them",
            "By reason, and by what became of the request.",
            "ops",
            rate("ryzanstein_gateway_migrations_total", _MODELS, "reason, outcome"),
            "{{reason}}: {{outcome}}",
            quiet="no replica was lost with a request in it",
        ),
        quantiles(
            "Gap of a migration",
            "Time without a byte that a stream's client saw when its replica was lost.",
            "ryzanstein_gateway_migration_gap_seconds",
            _MODELS,
            quiet="no replica was lost with a request in it",
        ),
    ),
)

_PROCESSES: Final = Row(
    "Processes",
    (
        line(
            "Processes that take requests",
            "Of each pod.",
            "short",
            aggregated("max", select("ryzanstein_gateway_processes_ready", _PODS), "pod"),
            "{{pod}}",
            quiet=_SEVERAL,
        ),
        Panel(
            "Processes that died",
            "Processes that were replaced, and requests that were in them.",
            "ops",
            (
                Query(rate("ryzanstein_gateway_process_restarts_total", _PODS, "pod"), "{{pod}} replaced", _SEVERAL),
                Query(rate("ryzanstein_gateway_requests_lost_total", _PODS, "pod"), "{{pod}} requests lost", _SEVERAL),
            ),
        ),
        line(
            "Age of what is known",
            "Since the API server was last heard, by what is watched. Above 60 s the gateway goes by old news.",
            "s",
            aggregated("max", select("ryzanstein_gateway_watch_age_seconds", _PODS), "watch"),
            "{{watch}}",
        ),
        line(
            "Since the operator was told",
            "Time since the operator that leads last took a pod's view of the replicas.",
            "s",
            f"time() - {aggregated('max', select('ryzanstein_gateway_views_told_timestamp_seconds', _PODS), 'pod')}",
            "{{pod}}",
            quiet="no operator has been told yet",
        ),
        line(
            "Until the certificate expires",
            "Of the certificate in force.",
            "s",
            aggregated("min", select("ryzanstein_gateway_tls_certificate_expiry_timestamp_seconds", _PODS), "pod")
            + " - time()",
            "{{pod}}",
            quiet="the gateway ends no TLS",
        ),
    ),
)

GATEWAY: Final = Dashboard(
    uid="ryzanstein-gateway",
    title="Ryzanstein: gateway",
    description="The gateways' pods: traffic, admission, routing, failover, processes.",
    rows=(_NOW, _TRAFFIC, _ADMISSION, _ROUTING, _FAILOVER, _PROCESSES),
    variables=VARIABLES,
)
