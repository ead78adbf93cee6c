"""The InferenceService as users write it and read it back. Each field here works today; there are no others.

Docstrings become the CRD's descriptions and the reference. Knows nothing of the manifests made from it.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from ryzanstein_operator.api import rules
from ryzanstein_operator.api.autoscaling import Autoscaling, AutoscalingStatus
from ryzanstein_operator.api.conditions import Condition
from ryzanstein_operator.api.wire import Rule, Wire

KIND = "InferenceService"
PLURAL = "inferenceservices"
SINGULAR = "inferenceservice"
SHORT_NAMES = ("rzi",)
CATEGORY = "ryzanstein"
MAX_NAME = 40

CPU = "cpu"

Name = Annotated[str, StringConstraints(max_length=63)]
LabelKey = Annotated[str, StringConstraints(max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Quantity = Annotated[
    int | Annotated[str, StringConstraints(max_length=32)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
ResourceName = Annotated[str, StringConstraints(max_length=253)]
# Seven is what the API server's cost budget for CEL leaves room for; a pod seldom names more than four.
Resources = Annotated[dict[ResourceName, Quantity], Field(max_length=7)]


class SecretKey(Wire):
    """One key of a Secret in the service's namespace."""

    name: str = Field(min_length=1, max_length=253)
    """The Secret's name."""
    key: str = Field(min_length=1, max_length=253)
    """The key within it."""

    rules: ClassVar[tuple[Rule, ...]] = rules.SECRET_KEY


class Model(Wire):
    """Which model is served and under which name."""

    uri: str = Field(min_length=1, max_length=512)
    """Where the model lies: `demo://` (shipped with the project), `file:///dir` (a path in the worker's image),
    `pvc://CLAIM/PATH` (a volume claim of this namespace, read only) or `hf://ORG/NAME` (the Hugging Face hub)."""
    revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Branch, tag or commit of an `hf://` model. Left out, it is `main`."""
    name: str | None = Field(default=None, min_length=1, max_length=128)
    """What clients put in "model". Left out, it is the resource's name. It cannot be changed later."""
    cache_claim: str | None = Field(default=None, min_length=1, max_length=63)
    """Volume claim of this namespace that keeps an `hf://` download, so that restarts and further replicas find it.
    Left out, each pod downloads into its own scratch volume."""
    token_secret: SecretKey | None = None
    """Secret with the hub token for a gated or private `hf://` model. Only the download sees it."""

    rules: ClassVar[tuple[Rule, ...]] = rules.MODEL


class Parallelism(Wire):
    """How one replica is spread."""

    tensor: int = Field(default=1, ge=1, le=16)
    """Tensor-parallel ranks in each replica; it must divide the model's attention heads and key-value heads."""
    nodes: int = Field(default=1, ge=1, le=16)
    """Pods in each replica, each on a node of its own with `tensor / nodes` of the ranks. With more than one, they
    start and end together. It cannot be changed later."""
    topology_key: str | None = Field(default=None, min_length=1, max_length=317)
    """Label of nodes, such as `topology.kubernetes.io/zone`: all pods of one replica run on nodes that have the same
    value of it. Belongs to `nodes` above 1."""
    placement_timeout_seconds: int = Field(default=600, ge=10, le=86_400)
    """With `nodes` above 1: how long a replica waits for nodes for all of its pods. One that cannot be placed whole by
    then is withdrawn, so that it holds nothing, and is tried again."""

    rules: ClassVar[tuple[Rule, ...]] = rules.PARALLELISM


class ResourceNeeds(Wire):
    """What each pod asks of its node, as in a pod."""

    requests: Resources = Field(default_factory=dict)
    """What the scheduler sets aside."""
    limits: Resources = Field(default_factory=dict)
    """What the kubelet enforces. The accelerator's count need not be given: it is the pod's count of ranks."""

    rules: ClassVar[tuple[Rule, ...]] = rules.RESOURCES


class Engine(Wire):
    """Settings of the inference engine. What is left out, the worker chooses from the model and the machine."""

    max_model_len: int | None = Field(default=None, ge=16, le=10_485_760)
    """Longest prompt and completion together, in tokens."""
    max_num_seqs: int | None = Field(default=None, ge=1, le=4096)
    """Most requests in one engine step."""
    max_batch_tokens: int | None = Field(default=None, ge=16, le=1_048_576)
    """Most tokens in one engine step; longer prompts are computed in chunks of it."""
    block_size: int | None = Field(default=None, ge=1, le=256)
    """Tokens in one block of the key-value cache."""
    kv_cache_memory: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    """Memory for the key-value cache on each rank, a quantity such as `8Gi`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and computation; `auto` takes the model's own where the machine can."""
    prefix_caching: bool = True
    """Keep the key-value blocks of finished prompts, so that a common beginning is computed once."""

    rules: ClassVar[tuple[Rule, ...]] = rules.ENGINE


class Routing(Wire):
    """How the gateway brings requests to replicas. A change restarts nothing."""

    policy: Literal["RoundRobin", "Adaptive", "PrefixAware"] = "Adaptive"
    """Which replica takes the next request: each in turn; the better off of two by queue, KV cache and latency; or the
    one that has lately served the same beginning of a prompt, as long as it has not much more to do than the others."""
    max_queued_requests: int = Field(default=256, ge=0, le=100_000)
    """Requests that may wait while every replica is full or there is none, all keys and all gateways together; one more
    is refused with 503. With 0 none waits."""
    queue_timeout_seconds: int | None = Field(default=None, ge=1, le=600)
    """How long a request waits there before it is refused with 503. Left out: 30, and 600 where
    `autoscaling.minReplicas` is 0, for the first request waits until the model is loaded. Where there may be no replica
    for a while otherwise, as with `replicas: 0`, give it longer than that takes."""


class Access(Wire):
    """Who may use the service, and how much of it."""

    key_sets: Annotated[list[Name], Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"})] = Field(
        default_factory=list
    )
    """Key sets whose API keys are accepted. Empty means the key set `default`."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=10_000_000)
    """Requests a minute of one API key, on this model; one beyond them is refused with 429. Left out, there is no
    limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=2_000_000_000)
    """Tokens a minute of one API key, on this model, prompts and completions together. While the minute's are used up,
    requests are refused with 429. Left out, there is no limit."""
    max_concurrent_requests: int | None = Field(default=None, ge=1, le=100_000)
    """Requests of one API key that may be under way at the same time, on this model, those that wait included; one
    more is refused with 429. Left out, there is no limit."""

    rules: ClassVar[tuple[Rule, ...]] = rules.ACCESS


class Disruption(Wire):
    """How replicas are exchanged in a rollout."""

    max_surge: int = Field(default=1, ge=0, le=100)
    """Replicas that may run beyond `replicas` during a rollout."""
    max_unavailable: int = Field(default=0, ge=0, le=100)
    """Replicas that may be missing during a rollout; a node drain may take as many, and always one."""
    drain_seconds: int = Field(default=120, ge=1, le=3600)
    """How long a replica that is to go may finish its running requests."""

    rules: ClassVar[tuple[Rule, ...]] = rules.DISRUPTION


class Toleration(Wire):
    """As in a pod."""

    key: str | None = Field(default=None, max_length=317)
    """The taint's key; empty with `Exists` means every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: str | None = Field(default=None, max_length=63)
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; left out, all."""
    toleration_seconds: int | None = Field(default=None, ge=0, le=86_400)
    """How long a `NoExecute` taint is tolerated."""

    rules: ClassVar[tuple[Rule, ...]] = rules.TOLERATION


class Template(Wire):
    """What of the worker pods may be chosen. Everything else about them is the operator's."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Another worker image. It must understand the command line and the probes of this project's worker."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """As in a pod. Left out, it is what the chart was installed with."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels a node must have."""
    tolerations: Annotated[
        list[Toleration], Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = Field(default_factory=list)
    """Taints the pods put up with."""

    rules: ClassVar[tuple[Rule, ...]] = rules.TEMPLATE


class Spec(Wire):
    """What is wanted."""

    model: Model
    """Which model is served and under which name."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How one replica is spread."""
    accelerator: str = Field(default=CPU, min_length=1, max_length=253)
    """`cpu`, or the resource name of a device plugin such as `nvidia.com/gpu`."""
    resources: ResourceNeeds = Field(default_factory=ResourceNeeds)
    """What each pod asks of its node."""
    engine: Engine = Field(default_factory=Engine)
    """Settings of the inference engine."""
    replicas: int = Field(default=1, ge=0, le=1000)
    """Copies of the model. 0 keeps the service and frees its nodes. Left out where `autoscaling` is given."""
    autoscaling: Autoscaling | None = None
    """Lets the number of replicas follow the load. Without it `replicas` holds, and an autoscaler of yours may set it
    through the scale subresource."""
    routing: Routing = Field(default_factory=Routing)
    """How the gateway brings requests to replicas."""
    access: Access = Field(default_factory=Access)
    """Who may use the service, and how much of it."""
    disruption: Disruption = Field(default_factory=Disruption)
    """How replicas are exchanged in a rollout."""
    template: Template = Field(default_factory=Template)
    """What of the worker pods may be chosen."""

    rules: ClassVar[tuple[Rule, ...]] = rules.SPEC


class ServedModel(Wire):
    """The model as clients see it."""

    name: str = Field(max_length=128)
    """What clients put in "model"."""
    uri: str = Field(max_length=512)
    """Where it was taken from."""


class UnhealthyNode(Wire):
    """A node that replicas of the service are on, or were until lately, and that cannot be counted on."""

    name: str = Field(max_length=253)
    """The node."""
    reason: str = Field(max_length=64)
    """NodeNotReady, NodeUnreachable or AcceleratorFault."""
    message: str = Field(max_length=1024)
    """What is known of it, in words."""
    since: str = Field(json_schema_extra={"format": "date-time"}, max_length=32)
    """When it was first seen so, RFC 3339 in UTC."""


class Operation(Wire):
    """What the operator is in the middle of. Kept here so that one that is started anew goes on where it was."""

    id: str = Field(max_length=64)
    """Names this operation; the next one has another."""
    type: str = Field(max_length=64)
    """Rollout, Replace, Scale or Place. Of replicas that are groups of several pods alone."""
    step: str = Field(max_length=64)
    """Place (a group waits for nodes), Withdraw (it has waited too long), Pause (until it is tried again), Drain (a
    group lets its requests end) or Start (it has its nodes, and is not ready so far)."""
    target: str = Field(default="", max_length=253)
    """The group that the step is about."""
    tries: int = Field(default=0, ge=0)
    """How many groups could not be placed since one was."""
    deadline: str = Field(json_schema_extra={"format": "date-time"}, max_length=32)
    """When the step is given up, RFC 3339 in UTC."""
    message: str = Field(default="", max_length=1024)
    """What it waits for, in words."""


class Failure(Wire):
    """Something that went wrong."""

    time: str = Field(json_schema_extra={"format": "date-time"}, max_length=32)
    """When it was seen, RFC 3339 in UTC."""
    reason: str = Field(max_length=64)
    """The cause in one CamelCase word, as in a condition."""
    message: str = Field(max_length=1024)
    """The cause in words."""
    target: str = Field(default="", max_length=253)
    """The pod, group or node that it happened to."""


class Status(Wire):
    """What is."""

    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this status is about."""
    replicas: int = Field(default=0, ge=0)
    """Replicas that exist and are not on their way out; with `parallelism.nodes` above 1, groups of pods."""
    ready_replicas: int = Field(default=0, ge=0)
    """Replicas that answer requests."""
    desired_replicas: int = Field(default=0, ge=0)
    """Replicas that are wanted now: `spec.replicas`, or what `spec.autoscaling` came to."""
    updated_replicas: int = Field(default=0, ge=0)
    """Replicas that run the latest spec."""
    selector: str = Field(default="", max_length=512)
    """Label selector of one pod of each replica, for `kubectl scale` and autoscalers."""
    url: str = Field(default="", max_length=512)
    """Base URL for OpenAI clients, within the cluster."""
    model: ServedModel | None = None
    """The model as clients see it."""
    nodes: Annotated[list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=1000)] = Field(
        default_factory=list
    )
    """Nodes on which ready replicas run."""
    unhealthy_nodes: Annotated[list[UnhealthyNode], Field(max_length=100)] = Field(default_factory=list)
    """Nodes of the service that cannot be counted on."""
    autoscaling: AutoscalingStatus | None = None
    """What the number of replicas was last chosen by; only with `spec.autoscaling`."""
    operation: Operation | None = None
    """What the operator is in the middle of; nothing, most of the time."""
    last_failure: Failure | None = None
    """What went wrong last, also when it has been mended since."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Ready, Serving, Progressing, ModelCached, CapacityAvailable, ScalingActive, ScalingLimited, Degraded."""


class Metadata(Wire):
    """The part of an object's metadata that decisions look at."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1)
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None


class InferenceService(Wire):
    """A language model, served under an OpenAI-compatible endpoint by any number of replicas."""

    model_config = ConfigDict(extra="ignore")  # status: it is read from the manifest, leniently

    metadata: Metadata
    spec: Spec

    rules: ClassVar[tuple[Rule, ...]] = rules.INFERENCE_SERVICE

    @property
    def model_name(self) -> str:
        """What clients put in "model"."""
        return self.spec.model.name or self.metadata.name
