"""Specs of an InferenceService drawn by hypothesis: whole ones that are valid, and changes that need not be.

Every spec is one that a cluster of `fakekubelet` nodes with the label `pool: a` can run, but for `NOWHERE`.
"""

from typing import Any

from hypothesis import strategies as st

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import SpecError, parse

Spec = dict[str, Any]
SHARED_NAME = "shared"
NOWHERE = {"pool": "nowhere"}
_HUB = {"uri": "hf://Qwen/Qwen3-8B"}

_models: st.SearchStrategy[Spec] = st.one_of(
    st.just({"uri": "demo://"}),
    st.just({"uri": "file:///models/demo"}),
    st.builds(lambda path: {"uri": f"pvc://models{path}"}, st.sampled_from(["", "/a", "/a/v1.2"])),
    st.fixed_dictionaries(
        {"uri": st.just(_HUB["uri"])},
        optional={
            "revision": st.sampled_from(["main", "refs/pr/1"]),
            "cacheClaim": st.just("cache"),
            "tokenSecret": st.just({"name": "hub", "key": "HF_TOKEN"}),
        },
    ),
)
_engines = st.fixed_dictionaries(
    {},
    optional={
        "maxModelLen": st.sampled_from([16, 4096]),
        "maxNumSeqs": st.integers(1, 16),
        "maxBatchTokens": st.sampled_from([16, 2048]),
        "blockSize": st.sampled_from([1, 256]),
        "kvCacheMemory": st.sampled_from(["1Gi", "500M"]),
        "dtype": st.sampled_from(["auto", "float32", "bfloat16"]),
        "prefixCaching": st.booleans(),
    },
)
_resources = st.fixed_dictionaries(
    {},
    optional={
        "requests": st.sampled_from([{"cpu": 1}, {"cpu": "500m", "memory": "1Gi"}]),
        "limits": st.sampled_from([{"memory": "2Gi"}, {"cpu": 2, "ephemeral-storage": "1.5Gi"}]),
    },
)
_disruptions = st.sampled_from(
    [{}, {"maxSurge": 2}, {"maxSurge": 0, "maxUnavailable": 1}, {"maxUnavailable": 100, "drainSeconds": 1}]
)
_templates = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["team/worker:1", "registry.example:5000/w@sha256:" + "a" * 64]),
        "imagePullPolicy": st.sampled_from(["Always", "IfNotPresent", "Never"]),
        "nodeSelector": st.sampled_from([{}, {"pool": "a"}]),
        "tolerations": st.sampled_from([[], [{"operator": "Exists"}], [{"key": "gpu", "value": "x"}]]),
    },
)
_accesses = st.fixed_dictionaries(
    {}, optional={"keySets": st.sampled_from([[], ["team-a", "b"]]), "requestsPerMinute": st.integers(1, 600)}
)
_routings = st.fixed_dictionaries(
    {},
    optional={
        "policy": st.sampled_from(["RoundRobin", "Adaptive", "PrefixAware"]),
        "maxQueuedRequests": st.integers(0, 100_000),
        "queueTimeoutSeconds": st.integers(1, 600),
    },
)


def specs(*, nodes: tuple[int, ...] = (1,)) -> st.SearchStrategy[Spec]:
    """Valid specs. nodes: how many pods a replica may have; each divides 4."""
    return st.builds(
        _whole,
        _models,
        st.booleans(),
        st.sampled_from([(tensor, count) for count in nodes for tensor in (1, 2, 4) if tensor % count == 0]),
        st.fixed_dictionaries(
            {},
            optional={
                "accelerator": st.sampled_from(["cpu", "nvidia.com/gpu"]),
                "engine": _engines,
                "resources": _resources,
                "replicas": st.integers(0, 3),
                "disruption": _disruptions,
                "template": _templates,
                "access": _accesses,
                "routing": _routings,
            },
        ),
    )


def _whole(model: Spec, shared: bool, spread: tuple[int, int], rest: Spec) -> Spec:
    tensor, nodes = spread
    parallelism = {"tensor": tensor} | ({"nodes": nodes} if nodes > 1 else {})
    named = model | ({"name": SHARED_NAME} if shared else {})
    return {"model": named, "parallelism": parallelism, **rest}


changes: st.SearchStrategy[Spec] = st.one_of(
    st.builds(lambda engine: {"engine": engine}, _engines),
    st.builds(lambda routing: {"routing": routing}, _routings),
    st.builds(lambda access: {"access": access}, _accesses),
    st.builds(lambda disruption: {"disruption": disruption}, _disruptions),
    st.builds(lambda template: {"template": template}, _templates),
    st.builds(lambda resources: {"resources": resources}, _resources),
    st.builds(lambda model: {"model": model}, _models),
    st.sampled_from(
        [
            {"replicas": 0},
            {"replicas": 3},
            {"replicas": None},
            {"engine": None},
            {"template": None},
            {"parallelism": {"tensor": 4}},
            {"accelerator": "nvidia.com/gpu"},
            {"template": {"nodeSelector": NOWHERE}},
        ]
    ),
)
"""Merge patches of a spec. What is left of the spec may not go with them."""
nonsense: st.SearchStrategy[Spec] = st.sampled_from(
    [
        {"replicas": -1},
        {"replicas": 1001},
        {"parallelism": {"tensor": 0}},
        {"parallelism": {"nodes": 4, "tensor": 4}},
        {"accelerator": "gpu"},
        {"model": {"name": "another"}},
        {"model": {"revision": "a/../b"}},
        {"model": {"cacheClaim": "cache"}},
        {"model": {"uri": "s3://bucket/model"}},
        {"model": None},
        {"engine": {"maxBatchTokens": 64, "maxNumSeqs": 128}},
        {"engine": {"dtype": "int4"}},
        {"resources": {"limits": {"nvidia.com/gpu": 3}}},
        {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}},
        {"disruption": {"maxSurge": 0, "maxUnavailable": 0}},
        {"template": {"image": "my worker:1"}},
        {"template": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}},
    ]
)
"""Merge patches that are refused, or are where the rest of the spec does not go with them."""


def merged(spec: Spec, change: Spec) -> Spec:
    """`spec` after a JSON merge patch (RFC 7386)."""
    result = dict(spec)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[key] = value
    return result


def refusal(name: str, before: Spec | None, after: Spec) -> str:
    """Why the API server must refuse `after` in the place of `before` (None: a new one), or nothing."""
    try:
        service = parse(InferenceService, {"metadata": {"name": name}, "spec": after})
    except SpecError as error:
        return str(error)
    if before is None:
        return ""
    old = parse(InferenceService, {"metadata": {"name": name}, "spec": before})
    if old.model_name != service.model_name:
        return "spec.model.name cannot change"
    if old.spec.parallelism.nodes != service.spec.parallelism.nodes:
        return "spec.parallelism.nodes cannot change"
    return ""


def impossible(spec: Spec) -> bool:
    """Whether no node takes the pods of `spec`."""
    return bool((spec.get("template") or {}).get("nodeSelector") == NOWHERE)
