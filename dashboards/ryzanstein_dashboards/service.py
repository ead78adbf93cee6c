"""The page on one InferenceService: what its clients see, what its replicas do, how many there are and why."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Variable
from ryzanstein_dashboards.promql import aggregated, or_zero, quantile, rate, select
from ryzanstein_dashboards.service_load import GATEWAY, LATENCY, LOAD, WORKERS, of_workers
from ryzanstein_dashboards.shapes import (
    ANY_IS_BAD,
    TOKENS_A_SECOND,
    WHERE_NONE_FAILED,
    failed,
    line,
    quantiles,
    stat,
)

_OPERATOR: Final = 'namespace="$namespace", name="$inference_service"'

VARIABLES: Final = (
    Variable("namespace", "Namespace", "ryzanstein_operator_ready_replicas", "namespace"),
    Variable(
        "inference_service", "InferenceService", 'ryzanstein_operator_ready_replicas{namespace="$namespace"}', "name"
    ),
    Variable("model", "Model", f"ryzanstein_num_requests_running{{{WORKERS}}}", "model_name", hidden=True),
)


_NOW: Final = Row(
    "Now",
    (
        stat(
            "Ready replicas",
            "Replicas that are ready, as the operator sees it.",
            "short",
            aggregated("max", select("ryzanstein_operator_ready_replicas", _OPERATOR)),
        ),
        stat("Running requests", "Requests in the replicas' batches.", "short",
             of_workers("sum", "ryzanstein_num_requests_running")),
        stat(
            "Waiting requests",
            "Requests that have no place yet: held by the gateways, and in the replicas' own queues.",
            "short",
            f"{or_zero(aggregated('sum', select('ryzanstein_gateway_queue_length', GATEWAY)))}"
            f" + {or_zero(of_workers('sum', 'ryzanstein_num_requests_waiting'))}",
        ),
        stat("Generated tokens", "Tokens that the replicas generate together.", TOKENS_A_SECOND,
             rate("ryzanstein_generation_tokens_total", WORKERS)),
        failed(GATEWAY),
        stat("First token, 95th percentile", "95 of 100 requests have their first token within this time of their "
             "arrival at a replica.", "s", quantile(0.95, "ryzanstein_time_to_first_token_seconds", WORKERS)),
    ),
)  # fmt: skip

_CLIENTS: Final = Row(
    "What clients see",
    (
        Panel(
            "Requests by status",
            "Requests for this model that the gateways answer, by HTTP status.",
            "reqps",
            (Query(rate("ryzanstein_gateway_requests_total", GATEWAY, "code"), "{{code}}"),),
            kind=Kind.STACK,
        ),
        quantiles(
            "Time to first token",
            "From a stream's head at a gateway to its first token: what a user waits, the queue included.",
            "ryzanstein_gateway_time_to_first_token_seconds",
            GATEWAY,
            quiet="no request streams",
        ),
        quantiles(
            "Duration",
            "From a request's head at a gateway to the last byte of its answer.",
            "ryzanstein_gateway_request_duration_seconds",
            GATEWAY,
        ),
    ),
)

_SIZE: Final = Row(
    "Replicas",
    (
        Panel(
            "Replicas",
            "Wanted, ready, and the most that spec.autoscaling allows.",
            "short",
            (
                Query(aggregated("max", select("ryzanstein_operator_desired_replicas", _OPERATOR)), "wanted"),
                Query(aggregated("max", select("ryzanstein_operator_ready_replicas", _OPERATOR)), "ready"),
                Query(aggregated("max", select("ryzanstein_operator_max_replicas", _OPERATOR)), "most",
                      "spec.autoscaling is not set"),
            ),
        ),
        line(
            "Decisions",
            "Decisions of the autoscaler by direction; held where its targets could not be read.",
            "ops",
            rate("ryzanstein_operator_scaling_decisions_total", _OPERATOR, "direction"),
            "{{direction}}",
            quiet="spec.autoscaling is not set",
        ),
        line(
            "Requests to replicas by reason",
            "What decided which replica a request went to.",
            "reqps",
            rate("ryzanstein_gateway_routing_choices_total", GATEWAY, "why"),
            "{{why}}",
        ),
        line(
            "Running requests by replica",
            "Requests in the batch of each replica: how evenly the load is spread.",
            "short",
            of_workers("max", "ryzanstein_num_requests_running", "pod"),
            "{{pod}}",
        ),
        line(
            "Generated tokens by replica",
            "Tokens that each replica generates.",
            TOKENS_A_SECOND,
            rate("ryzanstein_generation_tokens_total", WORKERS, "pod"),
            "{{pod}}",
        ),
        line(
            "Silence of the ranks",
            "Of each replica, for how long the slowest rank has not moved. Above 30 s it is wedged.",
            "s",
            of_workers("max", "ryzanstein_engine_heartbeat_age_seconds", "pod"),
            "{{pod}}",
        ),
        Panel(
            "Replicas that answer Prometheus",
            "One line for each; a click opens the replica's page.",
            "short",
            (
                Query(of_workers("max", "ryzanstein_num_requests_running", "namespace, inference_service, pod"),
                      "running"),
                Query(of_workers("max", "ryzanstein_num_requests_waiting", "namespace, inference_service, pod"),
                      "waiting"),
                Query(rate("ryzanstein_generation_tokens_total", WORKERS, "namespace, inference_service, pod"),
                      "generated", unit=TOKENS_A_SECOND),
                Query(of_workers("max", "ryzanstein_kv_cache_usage_perc", "namespace, inference_service, pod"),
                      "cache in use", unit="percentunit"),
            ),
            kind=Kind.TABLE, span=24, links_to="ryzanstein-worker",
        ),
    ),
)  # fmt: skip

_FAULTS: Final = Row(
    "Faults",
    (
        Panel(
            "Replicas avoided",
            "Replicas that gateways send nothing to, by reason.",
            "short",
            (Query(f"sum by (reason) (max by (reason, endpoint) (ryzanstein_gateway_replica_unsound{{{GATEWAY}}}))",
                   "{{reason}}", "all replicas are sound"),),
            steps=ANY_IS_BAD,
        ),
        line(
            "Replicas lost with a request in them",
            "Since the gateways' start, by reason and by what became of the request.",
            "short",
            aggregated("sum", select("ryzanstein_gateway_migrations_total", GATEWAY), "reason, outcome"),
            "{{reason}}: {{outcome}}",
            quiet="no replica was lost with a request in it",
        ),
        line(
            "Requests turned away",
            "Requests that the gateways did not let in, by why.",
            "reqps",
            rate("ryzanstein_gateway_admissions_total", f'{GATEWAY}, outcome!="admitted"', "outcome"),
            "{{outcome}}",
            quiet=WHERE_NONE_FAILED,
        ),
    ),
)  # fmt: skip

SERVICE: Final = Dashboard(
    uid="ryzanstein-service",
    title="Ryzanstein: one service",
    description="One InferenceService: its clients' latencies, its replicas' load, its size.",
    rows=(_NOW, _CLIENTS, LATENCY, LOAD, _SIZE, _FAULTS),
    variables=VARIABLES,
)
