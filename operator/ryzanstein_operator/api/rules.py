"""The rules of an InferenceService that types and bounds cannot say, each with a sentence that tells what to do.

The two forms of a rule, CEL and Python, stand side by side; a test holds a real API server and the Python form to
the same verdicts. Knows no model class (they import this), so the Python form names fields only.
"""

from collections.abc import Mapping
from typing import Any

from ryzanstein_operator.api.patterns import (
    ACCELERATOR,
    CLAIM,
    CLIMBS,
    DNS_LABEL,
    HUB_REPO,
    IMAGE,
    KEY_OF_SECRET,
    LABEL_KEY,
    LABEL_VALUE,
    MODEL_NAME,
    PATH,
    REVISION,
    SERVICE_NAME,
    SUBDOMAIN,
    matches,
    pattern,
)
from ryzanstein_operator.api.quantity import is_quantity, parse_quantity
from ryzanstein_operator.api.wire import Rule


def _of_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def _hub_only(field: str, attribute: str, why: str) -> Rule:
    return Rule(
        f"!has(self.{field}) || self.uri.startsWith('hf://')",
        f"{field} belongs to an hf:// model; {why}",
        lambda model: getattr(model, attribute) is None or _of_hub(model.uri),
        field,
    )


def _scheme(prefix: str, pattern: str, message: str) -> Rule:
    return Rule(
        f"!self.uri.startsWith('{prefix}') || self.uri.matches('{pattern}')",
        message,
        lambda model: not model.uri.startswith(prefix) or matches(pattern, model.uri),
        "uri",
    )


SECRET_KEY = (
    pattern("name", "name", SUBDOMAIN, "must be the name of a Secret: a-z, 0-9, '-' and '.'", optional=False),
    pattern(
        "key", "key", KEY_OF_SECRET, "must be a key of the Secret: letters, digits, '-', '_' and '.'", optional=False
    ),
)

MODEL = (
    Rule(
        "self.uri.matches('^(demo|file|pvc|hf)://')",
        "must start with demo://, file://, pvc:// or hf://; other model sources are not supported",
        lambda model: matches("^(demo|file|pvc|hf)://", model.uri),
        "uri",
    ),
    _scheme("demo://", "^demo://$", "write demo:// with nothing behind it: there is one demo model"),
    _scheme(
        "file://", "^file:///[^/]", "file:// needs an absolute path in the worker's image, as in file:///models/demo"
    ),
    _scheme("pvc://", CLAIM, "pvc:// needs the name of a volume claim, as in pvc://models/qwen3-8b"),
    _scheme("hf://", HUB_REPO, "hf:// needs ORG/NAME, as in hf://Qwen/Qwen3-8B; a branch or commit goes into revision"),
    Rule(
        f"!self.uri.matches('{CLIMBS}') && self.uri.matches('{PATH}')",
        "must not contain '..' or characters other than letters, digits and -_./:+@",
        lambda model: not matches(CLIMBS, model.uri) and matches(PATH, model.uri),
        "uri",
    ),
    _hub_only("revision", "revision", "remove it, or take the model from the hub"),
    _hub_only("cacheClaim", "cache_claim", "other models are not downloaded, so there is nothing to cache"),
    _hub_only("tokenSecret", "token_secret", "other models are not downloaded, so no token is used"),
    Rule(
        f"!has(self.revision) || (self.revision.matches('{REVISION}') && !self.revision.contains('..'))",
        "must be a branch, tag or commit: letters, digits and -_./ without '..'",
        lambda model: model.revision is None or (matches(REVISION, model.revision) and ".." not in model.revision),
        "revision",
    ),
    pattern("name", "name", MODEL_NAME, "must start with a letter or digit and hold only letters, digits and -_./:"),
    pattern("cacheClaim", "cache_claim", DNS_LABEL, "must be the name of a volume claim: a-z, 0-9 and '-'"),
)

PARALLELISM = (
    Rule(
        "self.tensor % self.nodes == 0",
        "must be a multiple of nodes: every pod of a replica has as many ranks as the others",
        lambda parallelism: parallelism.tensor % parallelism.nodes == 0,
        "tensor",
    ),
    Rule(
        "self.nodes == oldSelf.nodes",
        "nodes cannot change: a replica of another shape is another workload; create a second InferenceService",
        None,
    ),
    Rule(
        "!has(self.topologyKey) || self.nodes > 1",
        "belongs to nodes above 1: a single pod is on one node anyway",
        lambda parallelism: parallelism.topology_key is None or parallelism.nodes > 1,
        "topologyKey",
    ),
    pattern("topologyKey", "topology_key", LABEL_KEY, "must be the key of a node's label"),
)

_PLAIN_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def _known_resource(name: str) -> bool:
    return name in _PLAIN_RESOURCES or name.startswith("hugepages-") or "/" in name


def _amounts(needs: Mapping[str, Any]) -> bool:
    return all(is_quantity(value) and parse_quantity(value) >= 0 for value in needs.values())


def _names_rule(field: str) -> Rule:
    return Rule(
        f"!has(self.{field}) || self.{field}.all(name, name in ['cpu', 'memory', 'ephemeral-storage'] || "
        "name.startsWith('hugepages-') || name.contains('/'))",
        "names must be cpu, memory, ephemeral-storage, hugepages-SIZE or a device such as nvidia.com/gpu",
        lambda needs: all(_known_resource(name) for name in getattr(needs, field)),
        field,
    )


def _amounts_rule(field: str) -> Rule:
    value = f"string(self.{field}[name])"
    return Rule(
        f"!has(self.{field}) || self.{field}.all(name, isQuantity({value}) && "
        f"!quantity({value}).isLessThan(quantity('0')))",
        "amounts must be quantities of at least 0, such as 2, 500m or 16Gi",
        lambda needs: _amounts(getattr(needs, field)),
        field,
    )


def _within_limits(needs: Any) -> bool:
    both = needs.requests.keys() & needs.limits.keys()
    amounts = [(needs.requests[name], needs.limits[name]) for name in both]
    return all(
        parse_quantity(request) <= parse_quantity(limit)
        for request, limit in amounts
        if is_quantity(request) and is_quantity(limit)
    )


RESOURCES = (
    _names_rule("requests"),
    _amounts_rule("requests"),
    _names_rule("limits"),
    _amounts_rule("limits"),
    Rule(
        "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
        "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
        "must not ask for more than the limit of the same name",
        _within_limits,
        "requests",
    ),
)

ENGINE = (
    Rule(
        "!has(self.maxBatchTokens) || !has(self.maxNumSeqs) || self.maxBatchTokens >= self.maxNumSeqs",
        "must be at least maxNumSeqs: each running request needs one token of every step",
        lambda engine: (
            not engine.max_batch_tokens or not engine.max_num_seqs or engine.max_batch_tokens >= engine.max_num_seqs
        ),
        "maxBatchTokens",
    ),
    Rule(
        "!has(self.kvCacheMemory) || (isQuantity(self.kvCacheMemory) && "
        "quantity(self.kvCacheMemory).isGreaterThan(quantity('0')))",
        "must be a quantity above 0, such as 8Gi",
        lambda engine: (
            engine.kv_cache_memory is None
            or (is_quantity(engine.kv_cache_memory) and parse_quantity(engine.kv_cache_memory) > 0)
        ),
        "kvCacheMemory",
    ),
)

ACCESS = (
    Rule(
        f"!has(self.keySets) || self.keySets.all(name, name.matches('{DNS_LABEL}'))",
        "names of key sets hold a-z, 0-9 and '-', and start and end with a letter or digit",
        lambda access: all(matches(DNS_LABEL, name) for name in access.key_sets),
        "keySets",
    ),
    Rule(
        "!has(self.keySets) || self.keySets.all(name, self.keySets.exists_one(other, other == name))",
        "names each key set once",
        lambda access: len(set(access.key_sets)) == len(access.key_sets),
        "keySets",
    ),
)

DISRUPTION = (
    Rule(
        "self.maxSurge > 0 || self.maxUnavailable > 0",
        "maxSurge and maxUnavailable cannot both be 0: a rollout could never start; raise one of them",
        lambda disruption: disruption.max_surge > 0 or disruption.max_unavailable > 0,
    ),
)

TOLERATION = (
    Rule(
        "has(self.key) && self.key != '' || self.operator == 'Exists'",
        "needs a key, or the operator Exists to tolerate every taint",
        lambda toleration: bool(toleration.key) or toleration.operator == "Exists",
    ),
    pattern("key", "key", LABEL_KEY.replace("^", "^(", 1).replace("$", ")?$"), "must be the key of a taint"),
    Rule(
        "self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "takes no value with the operator Exists",
        lambda toleration: toleration.operator != "Exists" or not toleration.value,
        "value",
    ),
    pattern("value", "value", LABEL_VALUE, "must be the value of a taint"),
    Rule(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "belongs to the effect NoExecute only",
        lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        "tolerationSeconds",
    ),
)

TEMPLATE = (
    pattern("image", "image", IMAGE, "must be an image such as registry.example/team/worker:1.2"),
    Rule(
        f"!has(self.nodeSelector) || self.nodeSelector.all(key, key.matches('{LABEL_KEY}') && "
        f"self.nodeSelector[key].matches('{LABEL_VALUE}'))",
        "must hold label keys and values of nodes, such as kubernetes.io/arch: amd64",
        lambda template: all(
            matches(LABEL_KEY, key) and matches(LABEL_VALUE, value) for key, value in template.node_selector.items()
        ),
        "nodeSelector",
    ),
)


def _accelerator_counts(spec: Any) -> bool:
    asked = [needs.get(spec.accelerator) for needs in (spec.resources.requests, spec.resources.limits)]
    ranks = spec.parallelism.tensor // spec.parallelism.nodes
    return spec.accelerator == "cpu" or all(str(count) == str(ranks) for count in asked if count is not None)


def _count_cel(part: str) -> str:
    held = f"self.resources.{part}"
    return (
        f"(!has(self.resources) || !has({held}) || !(self.accelerator in {held}) || "
        f"string({held}[self.accelerator]) == string(self.parallelism.tensor / self.parallelism.nodes))"
    )


AUTOSCALING_TARGET = (
    Rule(
        "(self.metric == 'Query') == has(self.query)",
        "belongs to the metric Query, which needs one",
        lambda target: (target.metric == "Query") == (target.query is not None),
        "query",
    ),
    Rule(
        "!has(self.type) || self.metric == 'Query'",
        "belongs to the metric Query; the others know how they are compared",
        lambda target: target.type is None or target.metric == "Query",
        "type",
    ),
    Rule(
        "self.metric != 'KVCacheUsagePercent' || self.value <= 100",
        "is a percentage: at most 100",
        lambda target: target.metric != "KVCacheUsagePercent" or target.value <= 100,
        "value",
    ),
)

AUTOSCALING = (
    Rule(
        "self.minReplicas <= self.maxReplicas",
        "must not be less than minReplicas",
        lambda autoscaling: autoscaling.min_replicas <= autoscaling.max_replicas,
        "maxReplicas",
    ),
)


def _fits_the_budget(spec: Any) -> bool:
    autoscaling = spec.autoscaling
    if autoscaling is None or autoscaling.max_accelerators is None:
        return True
    return bool(autoscaling.max_accelerators >= max(1, autoscaling.min_replicas) * spec.parallelism.tensor)


SPEC = (
    Rule(
        "!has(self.autoscaling) || self.replicas == 1",
        "leave it out where autoscaling is given: that chooses the number",
        lambda spec: spec.autoscaling is None or spec.replicas == 1,
        "replicas",
    ),
    Rule(
        "!has(self.autoscaling) || !has(self.autoscaling.maxAccelerators) || self.accelerator != 'cpu'",
        "maxAccelerators belongs to an accelerator other than cpu; use maxReplicas",
        lambda spec: spec.autoscaling is None or spec.autoscaling.max_accelerators is None or spec.accelerator != "cpu",
        "autoscaling",
    ),
    Rule(
        "!has(self.autoscaling) || !has(self.autoscaling.maxAccelerators) || self.autoscaling.maxAccelerators >= "
        "(self.autoscaling.minReplicas > 1 ? self.autoscaling.minReplicas : 1) * self.parallelism.tensor",
        "maxAccelerators must have room for minReplicas, and for one replica: parallelism.tensor for each",
        _fits_the_budget,
        "autoscaling",
    ),
    pattern(
        "accelerator",
        "accelerator",
        f"^cpu$|{ACCELERATOR}",
        "must be cpu or a device such as nvidia.com/gpu",
        optional=False,
    ),
    Rule(
        f"self.accelerator == 'cpu' || ({_count_cel('requests')} && {_count_cel('limits')})",
        "must name as many accelerators as parallelism.tensor / parallelism.nodes, the ranks of one pod, or leave them "
        "out: each rank has one of its own",
        _accelerator_counts,
        "resources",
    ),
)

INFERENCE_SERVICE = (
    Rule(
        "size(self.metadata.name) <= 40",
        "metadata.name may have at most 40 characters: names of what is made from it grow longer",
        lambda service: len(service.metadata.name) <= 40,
    ),
    Rule(
        f"self.metadata.name.matches('{SERVICE_NAME}')",
        "metadata.name must start with a letter and hold only a-z, 0-9 and '-': a Service is named after it",
        lambda service: matches(SERVICE_NAME, service.metadata.name),
    ),
    Rule(
        "(has(self.spec.model.name) ? self.spec.model.name : self.metadata.name) == "
        "(has(oldSelf.spec.model.name) ? oldSelf.spec.model.name : oldSelf.metadata.name)",
        "spec.model.name cannot change: clients ask for it; create a second InferenceService with the new name",
        None,
    ),
)
