"""The page on everything: is it well, how much does it do, what is full, where to look next."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row
from ryzanstein_dashboards.promql import aggregated, quantile, rate
from ryzanstein_dashboards.shapes import (
    ANY_IS_BAD,
    FULL,
    SERVER_ERRORS,
    TOKENS_A_SECOND,
    WHERE_NONE_FAILED,
    failed,
    line,
    quantiles,
    stat,
)
from ryzanstein_worker.contract import JOB_GATEWAY, JOB_OPERATOR, JOB_WORKER

_SERVICE: Final = "namespace, inference_service"
_NAMED: Final = "{{namespace}}/{{inference_service}}"
_JOBS: Final = "|".join((JOB_OPERATOR, JOB_GATEWAY, JOB_WORKER))

_NOW: Final = Row(
    "Now",
    (
        stat(
            "Services with a replica",
            "InferenceServices of which at least one replica answers Prometheus; none at zero.",
            "short",
            f"count({aggregated('count', 'ryzanstein_num_requests_running', _SERVICE)})",
        ),
        stat(
            "Ready replicas",
            "Replicas that the gateways may send requests to, over all models.",
            "short",
            f"sum({aggregated('max', 'ryzanstein_gateway_endpoints_ready', 'namespace, model')})",
        ),
        stat(
            "Requests",
            "Requests that the gateways answer, of all kinds.",
            "reqps",
            rate("ryzanstein_gateway_requests_total"),
        ),
        failed(),
        stat(
            "Generated tokens",
            "Tokens that all replicas generate.",
            TOKENS_A_SECOND,
            rate("ryzanstein_generation_tokens_total"),
        ),
        stat(
            "First token, 95th percentile",
            "95 of 100 requests have their first token within this time of their arrival at a replica.",
            "s",
            quantile(0.95, "ryzanstein_time_to_first_token_seconds"),
        ),
    ),
)

_TRAFFIC: Final = Row(
    "Traffic",
    (
        line(
            "Requests by model",
            "Requests that the gateways answer; without a model are those that named none that exists.",
            "reqps",
            rate("ryzanstein_gateway_requests_total", by="model"),
            "{{model}}",
        ),
        Panel(
            "Generated tokens by service",
            "Tokens that the replicas of each service generate.",
            TOKENS_A_SECOND,
            (Query(rate("ryzanstein_generation_tokens_total", by=_SERVICE), _NAMED),),
            kind=Kind.STACK,
        ),
        line(
            "Failed requests by model",
            "Answers with a status of 500 or above, by model and status.",
            "reqps",
            rate("ryzanstein_gateway_requests_total", SERVER_ERRORS, "model, code"),
            "{{model}} {{code}}",
            quiet=WHERE_NONE_FAILED,
        ),
        quantiles(
            "Time to first token",
            "From a request's arrival at a replica to its first token, over all services.",
            "ryzanstein_time_to_first_token_seconds",
        ),
        line(
            "Time to first token by service",
            "95th percentile of each service.",
            "s",
            quantile(0.95, "ryzanstein_time_to_first_token_seconds", by=_SERVICE),
            _NAMED,
        ),
        line(
            "Time between tokens by service",
            "95th percentile of the time from one token of a request to the next.",
            "s",
            quantile(0.95, "ryzanstein_inter_token_latency_seconds", by=_SERVICE),
            _NAMED,
        ),
    ),
)

_CAPACITY: Final = Row(
    "Capacity",
    (
        Panel(
            "Waiting requests",
            "Requests that have no place yet: held by the gateways, and in the replicas' own queues.",
            "short",
            (
                Query(aggregated("sum", "ryzanstein_gateway_queue_length", "model"), "{{model}} at the gateways",
                      "no request has had to wait yet"),
                Query(aggregated("sum", "ryzanstein_num_requests_waiting", _SERVICE), f"{_NAMED} in replicas"),
            ),
        ),
        Panel(
            "Key-value cache in use",
            "Mean share of key-value blocks in use over a service's replicas. Near 100 % requests are preempted.",
            "percentunit",
            (Query(aggregated("avg", "ryzanstein_kv_cache_usage_perc", _SERVICE), _NAMED),),
            steps=FULL, maximum=1,
        ),
        Panel(
            "Replicas",
            "Replicas of each service that are ready, and that are wanted.",
            "short",
            (
                Query(aggregated("max", "ryzanstein_operator_ready_replicas", "namespace, name"),
                      "{{namespace}}/{{name}} ready"),
                Query(aggregated("max", "ryzanstein_operator_desired_replicas", "namespace, name"),
                      "{{namespace}}/{{name}} wanted"),
            ),
        ),
    ),
)  # fmt: skip

_HEALTH: Final = Row(
    "Health",
    (
        line(
            "Alerts",
            "Alerts of Ryzanstein's rules that fire, or will unless it gets better (pending); docs/runbooks has a page "
            "for each.",
            "short",
            'sum by (alertname, alertstate) (ALERTS{alertname=~"Ryzanstein.+"})',
            "{{alertname}} {{alertstate}}",
            quiet="nothing is wrong, or Prometheus has not loaded the rules",
            span=24,
        ),
        Panel(
            "Pods that Prometheus reaches",
            "Pods of each part whose metrics could be read, and those whose could not.",
            "short",
            (
                Query(f'sum by (job) (up{{job=~"{_JOBS}"}})', "{{job}}"),
                Query(f'count by (job) (up{{job=~"{_JOBS}"}} == 0)', "{{job}} down", "all pods can be reached"),
            ),
        ),
        line(
            "Longest silence of a rank",
            "Of each service, for how long the slowest rank has not moved. Above 30 s a replica is wedged.",
            "s",
            aggregated("max", "ryzanstein_engine_heartbeat_age_seconds", _SERVICE),
            _NAMED,
        ),
        Panel(
            "Replicas avoided",
            "Replicas that gateways send nothing to, by reason.",
            "short",
            (Query("sum by (model, reason) (max by (model, reason, endpoint) (ryzanstein_gateway_replica_unsound))",
                   "{{model}} {{reason}}", "all replicas are sound"),),
            steps=ANY_IS_BAD,
        ),
        line(
            "Replicas lost with a request in them",
            "Since the gateways' start, by what became of the request: resumed or begun anew elsewhere, or given up.",
            "short",
            aggregated("sum", "ryzanstein_gateway_migrations_total", "model, outcome"),
            "{{model}} {{outcome}}",
            quiet="no replica was lost with a request in it",
        ),
        line(
            "Bad accelerators",
            "Replicas on an accelerator that cannot be used any more.",
            "short",
            "sum by (namespace, inference_service) (1 - ryzanstein_accelerator_healthy)",
            _NAMED,
            quiet="replicas run on CPU",
        ),
        line(
            "Unhealthy nodes",
            "Nodes with replicas that cannot be counted on, by reason.",
            "short",
            aggregated("max", "ryzanstein_operator_unhealthy_nodes", "reason"),
            "{{reason}}",
            quiet="all nodes are well",
        ),
    ),
)  # fmt: skip

_SERVICES: Final = Row(
    "Services",
    (
        Panel(
            "Services with a replica",
            "One line for each; a click opens the service's page.",
            "short",
            (
                Query(aggregated("count", "ryzanstein_num_requests_running", _SERVICE), "replicas"),
                Query(aggregated("sum", "ryzanstein_num_requests_running", _SERVICE), "running"),
                Query(aggregated("sum", "ryzanstein_num_requests_waiting", _SERVICE), "waiting"),
                Query(rate("ryzanstein_generation_tokens_total", by=_SERVICE), "generated", unit=TOKENS_A_SECOND),
                Query(aggregated("avg", "ryzanstein_kv_cache_usage_perc", _SERVICE), "cache in use",
                      unit="percentunit"),
            ),
            kind=Kind.TABLE, span=24, links_to="ryzanstein-service",
        ),
    ),
)  # fmt: skip

FLEET: Final = Dashboard(
    uid="ryzanstein-fleet",
    title="Ryzanstein: fleet",
    description="All services, replicas, gateways and operators that this Prometheus knows.",
    rows=(_NOW, _TRAFFIC, _CAPACITY, _HEALTH, _SERVICES),
)
