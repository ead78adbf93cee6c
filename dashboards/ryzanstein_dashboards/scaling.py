"""Of the page on the operator: how it sizes services, and by which numbers."""

from typing import Final

from ryzanstein_dashboards.model import Panel, Query, Row
from ryzanstein_dashboards.promql import aggregated, quantile, rate, select
from ryzanstein_dashboards.shapes import TOKENS_A_SECOND, line, quantiles

SIZES: Final = "ryzanstein_operator_ready_replicas"
_CHOSEN: Final = 'namespace=~"$namespaces", name=~"$services"'
_SERVED: Final = 'namespace=~"$namespaces", inference_service=~"$services"'
_NAMED: Final = "{{namespace}}/{{name}}"
_SERVICE: Final = "namespace, inference_service"
_SCALED: Final = "no service has spec.autoscaling"

SCALING: Final = Row(
    "Autoscaling",
    (
        Panel(
            "Replicas",
            "Wanted, ready, and the most that spec.autoscaling allows.",
            "short",
            (
                Query(aggregated("max", select("ryzanstein_operator_desired_replicas", _CHOSEN), "namespace, name"),
                      f"{_NAMED} wanted"),
                Query(aggregated("max", select(SIZES, _CHOSEN), "namespace, name"), f"{_NAMED} ready"),
                Query(aggregated("max", select("ryzanstein_operator_max_replicas", _CHOSEN), "namespace, name"),
                      f"{_NAMED} most", _SCALED),
            ),
        ),
        line(
            "Decisions",
            "Decisions about sizes by direction; held where the targets could not be read.",
            "ops",
            rate("ryzanstein_operator_scaling_decisions_total", _CHOSEN, "namespace, name, direction"),
            f"{_NAMED} {{{{direction}}}}",
            quiet=_SCALED,
        ),
        line(
            "Targets can be read",
            "1 while a service's size follows its targets, 0 while it is held (condition ScalingActive).",
            "short",
            aggregated("min", select("ryzanstein_operator_scaling_active", _CHOSEN), "namespace, name"),
            _NAMED,
            quiet=_SCALED,
        ),
        Panel(
            "Target WaitingRequests",
            "Requests that wait at the gateways and in the replicas; the target's value is for each replica.",
            "short",
            (
                Query(aggregated("sum", select("ryzanstein_num_requests_waiting", _SERVED), _SERVICE),
                      "{{namespace}}/{{inference_service}} in replicas"),
                Query("sum by (model) (ryzanstein_gateway_queue_length)", "{{model}} at the gateways",
                      "no request has had to wait yet"),
            ),
        ),
        Panel(
            "Target KVCacheUsagePercent",
            "Mean share of key-value blocks in use over the replicas.",
            "percentunit",
            (Query(aggregated("avg", select("ryzanstein_kv_cache_usage_perc", _SERVED), _SERVICE),
                   "{{namespace}}/{{inference_service}}"),),
            span=4, maximum=1,
        ),
        line(
            "Target TokensPerSecond",
            "Generated tokens of all replicas; the target's value is for each.",
            TOKENS_A_SECOND,
            rate("ryzanstein_generation_tokens_total", _SERVED, _SERVICE),
            "{{namespace}}/{{inference_service}}",
            span=4,
        ),
        line(
            "Target TimeToFirstTokenMillis",
            "95th percentile of the time to the first token.",
            "s",
            quantile(0.95, "ryzanstein_time_to_first_token_seconds", _SERVED, _SERVICE),
            "{{namespace}}/{{inference_service}}",
        ),
        quantiles(
            "Time of a query to Prometheus",
            "For a target of autoscaling, failed ones included.",
            "ryzanstein_operator_prometheus_query_duration_seconds",
            quiet=_SCALED,
        ),
        line(
            "Queries to Prometheus that failed",
            "Queries that brought no number that can be used, by why.",
            "ops",
            rate("ryzanstein_operator_prometheus_query_failures_total", by="why"),
            "{{why}}",
            quiet="every query brought a number",
        ),
        line(
            "Deleted pods",
            "Pods deleted because of their node.",
            "ops",
            rate("ryzanstein_operator_failover_deletions_total"),
            "deleted",
        ),
    ),
)  # fmt: skip
