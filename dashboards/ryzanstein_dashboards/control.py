"""The page on the operator: its visits, its calls, its leadership, and how it sizes services."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Step, Variable
from ryzanstein_dashboards.promql import aggregated, or_zero, quantile, rate
from ryzanstein_dashboards.scaling import SCALING, SIZES
from ryzanstein_dashboards.shapes import ANY_IS_BAD, line, quantiles, stat

_IDLE: Final = "the operator had nothing to do lately"

VARIABLES: Final = (
    Variable("namespaces", "Namespaces", SIZES, "namespace", many=True),
    Variable("services", "InferenceServices", f'{SIZES}{{namespace=~"$namespaces"}}', "name", many=True),
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
             quantile(0.95, "ryzanstein_operator_reconcile_duration_seconds"), quiet=_IDLE),
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
            quiet=_IDLE,
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
            quiet=_IDLE,
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
    rows=(_NOW, _VISITS, _CALLS, SCALING, _HEALTH),
    variables=VARIABLES,
)
