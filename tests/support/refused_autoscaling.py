"""Wrong and right forms of spec.autoscaling, each wrong one with the sentence to expect. Data only."""

from typing import Any

from spec_case import Case

WAITING = {"metric": "WaitingRequests", "value": 4}
GPU = "nvidia.com/gpu"


def _scaled(title: str, sentence: str, /, *, schema: bool = False, **fields: Any) -> Case:
    """spec.autoscaling with one target and at most 4 replicas, but for `fields`."""
    return Case(
        title, sentence, {"autoscaling": {"maxReplicas": 4, "targets": [WAITING], **fields}}, "chat", schema=schema
    )


def _target(title: str, sentence: str, /, *, schema: bool = False, **target: Any) -> Case:
    return _scaled(title, sentence, schema=schema, targets=[{"value": 4, **target}])


def _behavior(title: str, sentence: str, /, *, schema: bool = True, **rules: Any) -> Case:
    return _scaled(title, sentence, schema=schema, behavior={"scaleDown": rules})


def _devices(title: str, sentence: str, tensor: int, /, **fields: Any) -> Case:
    """The same on accelerators, so many for each replica."""
    spec = _scaled("", "", **fields).spec
    return Case(title, sentence, {"accelerator": GPU, "parallelism": {"tensor": tensor}, **spec})


REFUSED_AUTOSCALING = (
    Case("a size beside autoscaling", "leave it out where autoscaling", {**_scaled("", "").spec, "replicas": 2}),
    Case("zero beside autoscaling", "leave it out where autoscaling", {**_scaled("", "").spec, "replicas": 0}),
    _scaled("no target", "should have at least 1 item", schema=True, targets=[]),
    _scaled("nine targets", "must have at most 8 items", schema=True, targets=[WAITING] * 9),
    _scaled("a minimum above the maximum", "must not be less than minReplicas", minReplicas=5),
    _scaled("a maximum of none", "greater than or equal to 1", schema=True, maxReplicas=0),
    _scaled("a minimum below none", "greater than or equal to 0", schema=True, minReplicas=-1),
    _scaled("too soon to zero", "greater than or equal to 10", schema=True, idleSecondsBeforeZero=9),
    _scaled("two days to zero", "less than or equal to 86400", schema=True, idleSecondsBeforeZero=172_800),
    _target("a metric nobody knows", "KVCacheUsagePercent", schema=True, metric="CPU"),
    _target("a target of nothing", "greater than or equal to 1", schema=True, metric="WaitingRequests", value=0),
    _target("a query without one", "which needs one", metric="Query"),
    _target("a query beside a metric", "belongs to the metric Query", metric="WaitingRequests", query="up"),
    _target("an empty query", "at least 1", schema=True, metric="Query", query=""),
    _target("a query too long", "may not be more than 1024", schema=True, metric="Query", query="x" * 1025),
    _target("a type beside a metric", "know how they are compared", metric="TokensPerSecond", type="Value"),
    _target("a type nobody knows", "AverageValue", schema=True, metric="Query", query="up", type="Utilization"),
    _target("more than all blocks", "at most 100", metric="KVCacheUsagePercent", value=101),
    _behavior("a window of two hours", "less than or equal to 3600", stabilizationWindowSeconds=7200),
    _behavior("a negative window", "greater than or equal to 0", stabilizationWindowSeconds=-1),
    _behavior("a choice nobody knows", "Disabled", selectPolicy="Average"),
    _behavior("twice the target", "less than or equal to 100", tolerancePercent=101),
    _behavior("a period too long", "1800", policies=[{"type": "Percent", "value": 10, "periodSeconds": 1801}]),
    _behavior("a policy of nothing", "equal to 1", policies=[{"type": "Replicas", "value": 0, "periodSeconds": 60}]),
    _behavior("a policy of pods", "Replicas", policies=[{"type": "Pods", "value": 1, "periodSeconds": 60}]),
    _behavior("five policies", "at most 4", policies=[{"type": "Percent", "value": 1, "periodSeconds": 1}] * 5),
    _scaled("a budget of processors", "belongs to an accelerator other than cpu", maxAccelerators=8),
    _devices("a budget below one replica", "room for minReplicas, and for one replica", 4, maxAccelerators=3),
    _devices("a budget below one that sleeps", "for one replica", 4, maxAccelerators=3, minReplicas=0),
    _devices("a budget below the minimum", "room for minReplicas", 4, maxAccelerators=11, minReplicas=3),
)

ACCEPTED_AUTOSCALING = (
    _scaled("a size that follows the load", ""),
    Case("its size left at the default", "", {**_scaled("", "").spec, "replicas": 1}),
    _scaled("down to nothing", "", minReplicas=0, idleSecondsBeforeZero=10),
    _scaled("a size that is held", "", minReplicas=4),
    _devices("a budget for just the minimum", "", 4, maxAccelerators=12, minReplicas=3),
    _devices("a budget for just one that sleeps", "", 4, maxAccelerators=4, minReplicas=0),
    _scaled(
        "all of autoscaling",
        "",
        targets=[
            WAITING,
            {"metric": "KVCacheUsagePercent", "value": 100},
            {"metric": "TimeToFirstTokenMillis", "value": 500},
            {"metric": "TokensPerSecond", "value": 2000},
            {"metric": "Query", "value": 10, "query": "sum(up)"},
            {"metric": "Query", "value": 70, "query": "avg(up)", "type": "Value"},
        ],
        behavior={
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "tolerancePercent": 0,
                "policies": [
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                    {"type": "Replicas", "value": 4, "periodSeconds": 15},
                ],
            },
            "scaleDown": {"stabilizationWindowSeconds": 3600, "selectPolicy": "Disabled", "tolerancePercent": 100},
        },
    ),
)
