"""The page on the operator: its visits, its calls, its leadership, and how it sizes services."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Step, Variable
from ryzanstein_dashboards.promql import aggregated, or_zero, quantile, rate, select
from ryzanstein_dashboards.shapes import ANY_IS_BAD, TOKENS_A_SECOND, line, quantiles, stat

_CHOSEN: Final = 'namespace=~"$namespace", name=~"$inference_service"'
_SERVED: Final = 'namespace=~"$namespace", inference_service=~"$inference_service"'
_NAMED: Final = "{{namespace}}/{{name}}"
_SERVICE: Final = "namespace, inference_service"
_SCALED: Final = "no service has spec.autoscaling"
_SIZES: Final = "ryzanstein_operator_ready_replicas"

VARIABLES: Final = (
    Variable("namespace", "Namespace", _SIZES, "namespace", many=True),
    Variable("inference_service", "InferenceService", f'{_SIZES}{{namespace=~"$namespace"}}', "name", many=True),
)

_NOW: Final = Row(
    "Now",
    (
        stat("Leaders", "Processes that hold the Lease: one, always.", "short",
             aggregated("sum", "ryzanstein_operator_leader"), base="red", steps=(Step(1, "green"), Step(2, "red"))),
        stat(
            "Ready services",
            "InferenceServices that are Ready, of all that the operator looks after.",
            "short",
            or_zero('max(ryzanstein_operator_services{condition="Ready", status="True"})'),
        ),
        stat("Waiting visits", "Keys that are due for a visit and wait for a free worker.", "short",
             aggregated("max", "ryzanstein_operator_queue_depth")),
        stat("Visit, 95th percentile", "95 of 100 visits take no longer.", "s",
             quantile(0.95, "ryzanstein_operator_reconcile_duration_seconds")),
        stat("Age of what is known", "For how long a change that was made has not come back through the watch.", "s",
             aggregated("max", "ryzanstein_operator_watch_freshness_seconds"),
             steps=(Step(30, "orange"), Step(60, "red"))),
        stat("Gateways heard", "Gateway pods that have told lately how they see the replicas.", "short",
             aggregated("max", "ryzanstein_operator_gateways_heard")),
    ),
)  # fmt: skip

_VISITS: Final = Row(
    "Reconciling",
    (
        quantiles(
            "Time of a visit",
            "From the look at the cluster to the last write.",
            "ryzanstein_operator_reconcile_duration_seconds",
        ),
        Panel(
            "Visits",
            "By result: done, retry, failed, not_leading.",
            "ops",
            (Query(rate("ryzanstein_operator_reconcile_total", by="result"), "{{result}}"),),
            kind=Kind.STACK,
        ),
        line(
            "Visits that failed",
            "Visits that ended in an error.",
            "ops",
            rate("ryzanstein_operator_reconcile_errors_total"),
            "failed",
        ),
        quantiles(
            "Wait for a visit",
            "How much later than due a visit begins.",
            "ryzanstein_operator_queue_wait_seconds",
        ),
        Panel(
            "Queue",
            "Keys that are due for a visit and wait for a free worker; and put back after a failure.",
            "short",
            (
                Query(aggregated("max", "ryzanstein_operator_queue_depth"), "waiting"),
                Query(rate("ryzanstein_operator_queue_retries_total"), "put back a second"),
            ),
        ),
        Panel(
            "Longest wait",
            "For how long the key has been due that has waited longest. It grows while the operator is stuck.",
            "s",
            (Query(aggregated("max", "ryzanstein_operator_queue_oldest_seconds", "pod"), "{{pod}}"),),
            steps=(Step(60, "red"),),
        ),
    ),
)

_CALLS: Final = Row(
    "API server",
    (
        Panel(
            "Calls",
            "Calls to the API server by verb and class of status; none where no answer came.",
            "reqps",
            (Query(rate("ryzanstein_operator_api_request_duration_seconds_count", by="verb, code"),
                   "{{verb}} {{code}}"),),
            kind=Kind.STACK,
        ),
        line(
            "Time of a call",
            "95th percentile by verb.",
            "s",
            quantile(0.95, "ryzanstein_operator_api_request_duration_seconds", by="verb"),
            "{{verb}}",
        ),
        Panel(
            "Writes",
            "Writes that the API server took, by kind and verb.",
            "ops",
            (Query(rate("ryzanstein_operator_writes_total", by="kind, verb"), "{{kind}} {{verb}}"),),
            kind=Kind.STACK,
        ),
        line(
            "Calls tried again",
            "Attempts that followed one that failed for what may pass by itself.",
            "reqps",
            rate("ryzanstein_operator_api_request_retries_total", by="verb"),
            "{{verb}}",
            quiet="every call succeeded at once",
        ),
        line(
            "Leadership",
            "1 of the process that holds the Lease, 0 of those that stand by.",
            "short",
            aggregated("max", "ryzanstein_operator_leader", "pod"),
            "{{pod}}",
        ),
        line(
            "Age of what is known",
            "For how long a change that was made has not come back through the watch. Above 60 s it counts as dead.",
            "s",
            aggregated("max", "ryzanstein_operator_watch_freshness_seconds", "pod"),
            "{{pod}}",
        ),
    ),
)  # fmt: skip

_SCALING: Final = Row(
    "Autoscaling",
    (
        Panel(
            "Replicas",
            "Wanted, ready, and the most that spec.autoscaling allows.",
            "short",
            (
                Query(aggregated("max", select("ryzanstein_operator_desired_replicas", _CHOSEN), "namespace, name"),
                      f"{_NAMED} wanted"),
                Query(aggregated("max", select(_SIZES, _CHOSEN), "namespace, name"), f"{_NAMED} ready"),
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

_HEALTH: Final = Row(
    "Services and nodes",
    (
        line(
            "Services by condition",
            "InferenceServices with each condition True.",
            "short",
            'max by (condition) (ryzanstein_operator_services{status="True"})',
            "{{condition}}",
            span=12,
        ),
        Panel(
            "Unhealthy nodes",
            "Nodes with replicas that cannot be counted on, by reason.",
            "short",
            (Query(aggregated("max", "ryzanstein_operator_unhealthy_nodes", "reason"), "{{reason}}",
                   "all nodes are well"),),
            span=12, steps=ANY_IS_BAD,
        ),
    ),
)  # fmt: skip

CONTROL: Final = Dashboard(
    uid="ryzanstein-operator",
    title="Ryzanstein: operator",
    description="The operator: its visits, its calls to the API server, its leadership, and how it sizes services.",
    rows=(_NOW, _VISITS, _CALLS, _SCALING, _HEALTH),
    variables=VARIABLES,
)
