"""Of the page on the gateways: which replica was chosen and why, what was lost, and the gateways' own processes."""

from typing import Final

from ryzanstein_dashboards.model import Kind, Panel, Query, Row, Step
from ryzanstein_dashboards.promql import aggregated, rate, select
from ryzanstein_dashboards.shapes import ANY_IS_BAD, WHERE_NONE_FAILED, line

PODS: Final = 'namespace="$release", pod=~"$gateways"'
MODELS: Final = f'{PODS}, model=~"$models"'
READY: Final = "ryzanstein_gateway_endpoints_ready"
_GAPS: Final = f"ryzanstein_gateway_migration_gap_seconds_bucket{{{MODELS}}}"
_SEVERAL: Final = "a pod has one process (gateway.processes: 1)"

ROUTING: Final = Row(
    "Routing",
    (
        line(
            "Ready replicas",
            "Replicas that requests may be sent to, by model.",
            "short",
            aggregated("max", select(READY, MODELS), "model"),
            "{{model}}",
        ),
        Panel(
            "Choices",
            "Replicas chosen, by policy and by what decided it.",
            "reqps",
            (Query(rate("ryzanstein_gateway_routing_choices_total", MODELS, "policy, why"), "{{policy}}: {{why}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Replicas avoided",
            "Replicas that nothing is sent to, by reason.",
            "short",
            (Query(f"sum by (model, reason) (max by (model, reason, endpoint) "
                   f"(ryzanstein_gateway_replica_unsound{{{MODELS}}}))",
                   "{{model}} {{reason}}", "all replicas are sound"),),
            steps=ANY_IS_BAD,
        ),
        Panel(
            "Circuit breakers",
            "0 closed, 1 half-open, 2 open: the worst of each model's replicas.",
            "short",
            (Query(aggregated("max", select("ryzanstein_gateway_breaker_state", MODELS), "model"), "{{model}}"),),
            steps=(Step(1, "orange"), Step(2, "red")),
        ),
        Panel(
            "Ejections",
            "Replicas that are left out for a while as outliers.",
            "ops",
            (Query(rate("ryzanstein_gateway_ejections_total", PODS), "ejections"),),
        ),
        line(
            "Failed health checks",
            "Health pages of replicas that could not be read, by reason.",
            "ops",
            rate("ryzanstein_gateway_health_checks_failed_total", PODS, "reason"),
            "{{reason}}",
            quiet="all replicas answered their checks",
        ),
    ),
)  # fmt: skip

FAILOVER: Final = Row(
    "Failover",
    (
        line(
            "Tries elsewhere",
            "Requests sent to another replica because one had not begun them, by reason.",
            "reqps",
            rate("ryzanstein_gateway_upstream_retries_total", PODS, "reason"),
            "{{reason}}",
            quiet=WHERE_NONE_FAILED,
        ),
        line(
            "Replicas lost with a request in them",
            "Since the pods' start, by reason and by what became of the request.",
            "short",
            aggregated("sum", select("ryzanstein_gateway_migrations_total", MODELS), "reason, outcome"),
            "{{reason}}: {{outcome}}",
            quiet="no replica was lost with a request in it",
        ),
        Panel(
            "Gap of a migration",
            "Time without a byte that a stream's client saw when its replica was lost, over all such streams since the "
            "pods' start: they are too few for a rate.",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({share}, {aggregated('sum', _GAPS, 'le')})",
                    words,
                    "no replica was lost with a stream in it",
                )
                for share, words in ((0.5, "median"), (0.95, "95th percentile"))
            ),
        ),
    ),
)

PROCESSES: Final = Row(
    "Processes",
    (
        line(
            "Processes that take requests",
            "Of each pod.",
            "short",
            aggregated("max", select("ryzanstein_gateway_processes_ready", PODS), "pod"),
            "{{pod}}",
            quiet=_SEVERAL,
        ),
        Panel(
            "Processes that died",
            "Processes that were replaced, and requests that were in them.",
            "ops",
            (
                Query(rate("ryzanstein_gateway_process_restarts_total", PODS, "pod"), "{{pod}} replaced", _SEVERAL),
                Query(rate("ryzanstein_gateway_requests_lost_total", PODS, "pod"), "{{pod}} requests lost", _SEVERAL),
            ),
        ),
        line(
            "Age of what is known",
            "Since the API server was last heard, by what is watched. Above 60 s the gateway goes by old news.",
            "s",
            aggregated("max", select("ryzanstein_gateway_watch_age_seconds", PODS), "watch"),
            "{{watch}}",
        ),
        line(
            "Since the operator was told",
            "Time since the operator that leads last took a pod's view of the replicas.",
            "s",
            f"time() - {aggregated('max', select('ryzanstein_gateway_views_told_timestamp_seconds', PODS), 'pod')}",
            "{{pod}}",
            quiet="no operator has been told yet",
        ),
        line(
            "Until the certificate expires",
            "Of the certificate in force.",
            "s",
            aggregated("min", select("ryzanstein_gateway_tls_certificate_expiry_timestamp_seconds", PODS), "pod")
            + " - time()",
            "{{pod}}",
            quiet="the gateway ends no TLS",
        ),
    ),
)
