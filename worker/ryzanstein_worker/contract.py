"""What the three parts agree on: ports, paths, environment names, metric names, label keys, exit codes.

Standard library only. The one module of the worker that operator and gateway may import, so it must
never import anything of the worker's own.
"""

from typing import Final

VERSION: Final = "0.1.0"
"""Of the whole distribution, as pyproject.toml has it: in the images it is not installed, so nobody can ask for it."""

# --- Ports (TCP) -------------------------------------------------------------------------------
API_PORT: Final = 8000
"""The OpenAI-compatible API, of a worker and of the gateway alike."""
HEALTH_PORT: Final = 8001
"""Probes and metrics, served by a thread of its own so that a busy event loop cannot hide them."""
GRPC_PORT: Final = 8002
"""The gRPC API (proto/), of a worker and of the gateway alike."""

DEMAND_PORT: Final = 8003
"""Of the operator: where a gateway says that requests wait for a replica, and how it sees the replicas."""
GROUP_PORT: Final = 8004
"""Of the first pod of a group of several: where the other pods' ranks meet it. Nobody speaks there without the group's
key."""

# --- HTTP paths --------------------------------------------------------------------------------
HEALTH_LIVE: Final = "/health/live"
HEALTH_READY: Final = "/health/ready"
HEALTH_STATUS: Final = "/health/status"
"""On HEALTH_PORT of a worker: what the gateway asks each second, as JSON; see server/health.py."""
METRICS: Final = "/metrics"
DEMAND_PATH: Final = "/demand"
"""On DEMAND_PORT: a POST of {"namespace", "service", "waiting", "sender"}, with the key that both have mounted. 200
from the operator that leads, 503 from one that stands by (and keeps it in mind). Besides, where there is one,
"traceparent" (W3C's) of a request that waits: the visit that follows is linked to it."""
VIEWS_PATH: Final = "/views"
"""On DEMAND_PORT, with the same key: a POST of how one gateway sees the replicas of every service: {"sender",
"services": [{"namespace", "service", "sound": how many it would send requests to, "in_flight": requests that replicas
work on for it, "waiting": those it holds for want of a replica or of room, "idle_seconds": since there was last one of
either here (or since this gateway knows the service; 0 while there is one), all three of all its processes together,
"replicas": [{"address", "state", "reason", "seconds", "accelerator_fault"},
... those that are not sound]}]}. `state` is Unreachable, Refused, Lagging, NotReady or Draining; `seconds`: since the
last sign of life of one that is missing or lags, else for how long it is so. At once when something changed (numbers
of requests and times alone are no change), else every few seconds. A replica that Kubernetes calls not ready, and
another pod of a group than its first, is named only where it tells of a fault of its accelerator."""
OVERVIEW_PATH: Final = "/overview"
"""On DEMAND_PORT, with the same key: a GET of all services, replicas and late Events as the leading operator knows them
(operator/ryzanstein_operator/overview.py says the form), for the gateway's page /ui. 503 from one that stands by."""
COMPLETIONS: Final = "/v1/completions"
CHAT_COMPLETIONS: Final = "/v1/chat/completions"
MODELS: Final = "/v1/models"
REALTIME: Final = "/v1/realtime/completions"
"""The gateway's WebSocket."""

# --- HTTP headers ------------------------------------------------------------------------------
HEADER_REQUEST_ID: Final = "x-request-id"
HEADER_CACHE_SALT: Final = "x-ryzanstein-cache-salt"
"""Set by the gateway alone, hex of at most 64 digits, derived from the API key: tenants share no prefix blocks.
The gateway removes what a client sends under this name."""
HEADER_PRIORITY: Final = "x-ryzanstein-priority"
"""From a client to the gateway: high, normal or low. Not passed on."""
HEADER_NOT_STARTED: Final = "x-ryzanstein-not-started"
"""On a worker's 503: "draining" or "overloaded". The request has not been started, another replica may take it."""
HEADER_LOST: Final = "x-ryzanstein-lost"
"""On a worker's 503: "crash" or "drain". The request ran, and nothing of its answer was sent: its engine is gone, or
the time to drain is over. Another replica may take it anew."""

HEADER_USAGE: Final = "x-ryzanstein-usage"
"""On a worker's answer: the prompt's tokens, and after a space, where the answer is in one piece, its own. For the
gateway's log and traces, which read no answer; clients do not see it."""

# --- The journal: what lets another replica continue a stream (docs/failover.md) ----------------------
HEADER_JOURNAL: Final = "x-ryzanstein-journal"
"""Asked for by the gateway with "1" on a request that streams. The worker's reply then carries it as
"<answer id> <created> <seed>", and the event stream has commit markers: comments that the gateway takes out."""
MARK_COMMIT: Final = b":c "
"""":c <choice> <cached prompt tokens> <token id> ...", after the events (if any) that these tokens of one choice gave.
Events are handed to a client only with their marker, so what was delivered and what is known never differ."""
MARK_LOST_CRASH: Final = b":lost crash"
MARK_LOST_DRAIN: Final = b":lost drain"
"""The last event of a stream that this worker cannot end and another can continue: its engine is gone, or its time to
drain is over. Nothing of the request itself was at fault."""
CONTENT_TYPE_RESUME: Final = "application/vnd.ryzanstein.resume+json"
"""A POST to the same path: {"request": the client's body, "resume": {"id", "created", "seed", "choices": [{"token_ids",
"num_cached"}]}} goes on where the delivered tokens end."""

# --- Environment, for what is not an argument -----------------------------------------------------
ENV_LOG_LEVEL: Final = "RYZANSTEIN_LOG_LEVEL"
ENV_TERMINATION_LOG: Final = "RYZANSTEIN_TERMINATION_LOG"
"""Where a worker that cannot start or go on writes the one sentence that says why; the operator repeats it in the
status."""
TERMINATION_LOG: Final = "/dev/termination-log"
ENV_GROUP_KEY_FILE: Final = "RYZANSTEIN_GROUP_KEY_FILE"
"""The file with the key that the pods of one group share; a mounted Secret."""
ENV_REVISION: Final = "RYZANSTEIN_REVISION"
"""Of the pod's template, where set: pods of different revisions are never one group."""
ENV_HUB_ENDPOINT: Final = "HF_ENDPOINT"
ENV_HUB_TOKEN: Final = "HF_TOKEN"

# --- Exit codes of the worker ----------------------------------------------------------------------
EXIT_CONFIG: Final = 78
"""EX_CONFIG: model missing, corrupt or unfit for the arguments. Only the user can mend it."""
EXIT_GROUP_LOST: Final = 70
"""EX_SOFTWARE: a rank died or froze; the whole group has ended and may be started anew."""
EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE: a model source could not be reached; worth another try."""

# --- Labels and annotations ------------------------------------------------------------------------
API_GROUP: Final = "ryzanstein.dev"
API_VERSION: Final = "v1alpha1"
LABEL_SERVICE: Final = "ryzanstein.dev/inference-service"
LABEL_ROLE: Final = "ryzanstein.dev/role"
ROLE_WORKER: Final = "worker"
LABEL_GROUP: Final = "ryzanstein.dev/group"
"""On each pod of a group of several pods: the group's name, which is its StatefulSet's."""
LABEL_POD_INDEX: Final = "apps.kubernetes.io/pod-index"
"""Kubernetes' own, on each pod of a StatefulSet: its number, which is the pod's place in the group."""
SUFFIX_WORKERS: Final = "-workers"
"""Behind a service's name: the Service whose endpoints take requests."""
SUFFIX_GROUP: Final = "-group"
"""Behind a service's name: the Service with all pods of its groups, ready or not."""
TAINT_UNHEALTHY: Final = "ryzanstein.dev/unhealthy"
"""The key of the taint that the operator puts on a node that is lost or whose accelerator is bad, where it may."""
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "ryzanstein-operator"
FIELD_MANAGER: Final = "ryzanstein-operator"

# --- The gateway's route table ------------------------------------------------------------------------
ROUTES_CONFIG_MAP: Final = "ryzanstein-routes"
"""Rendered by the operator into the release's namespace, watched by the gateway."""
ROUTES_KEY: Final = "routes.json"
ROUTES_COMPRESSED_KEY: Final = "routes.json.gz"
"""In `binaryData`, instead of the former where the table is large."""
ROUTES_VERSION: Final = 1
DEFAULT_KEY_SET: Final = "default"

# --- What Prometheus adds to every series that it scrapes of us (helm/ryzanstein/templates) ----------------
SERIES_NAMESPACE: Final = "namespace"
SERIES_POD: Final = "pod"
SERIES_SERVICE: Final = "inference_service"
"""On workers' series: the InferenceService's name. `namespace` is the pod's, so of a worker's the service's as well."""
JOB_OPERATOR: Final = "ryzanstein-operator"
JOB_GATEWAY: Final = "ryzanstein-gateway"
JOB_WORKER: Final = "ryzanstein-worker"

# --- Metrics: vLLM's suffixes and timing rules under our prefix ---------------------------------------
NUM_REQUESTS_RUNNING: Final = "ryzanstein_num_requests_running"
NUM_REQUESTS_WAITING: Final = "ryzanstein_num_requests_waiting"
KV_CACHE_USAGE_PERC: Final = "ryzanstein_kv_cache_usage_perc"
NUM_PREEMPTIONS: Final = "ryzanstein_num_preemptions"
PREFIX_CACHE_QUERIES: Final = "ryzanstein_prefix_cache_queries"
PREFIX_CACHE_HITS: Final = "ryzanstein_prefix_cache_hits"
PROMPT_TOKENS: Final = "ryzanstein_prompt_tokens"
GENERATION_TOKENS: Final = "ryzanstein_generation_tokens"
REQUEST_SUCCESS: Final = "ryzanstein_request_success"
TIME_TO_FIRST_TOKEN: Final = "ryzanstein_time_to_first_token_seconds"
INTER_TOKEN_LATENCY: Final = "ryzanstein_inter_token_latency_seconds"
E2E_REQUEST_LATENCY: Final = "ryzanstein_e2e_request_latency_seconds"
REQUEST_QUEUE_TIME: Final = "ryzanstein_request_queue_time_seconds"
REQUEST_PREFILL_TIME: Final = "ryzanstein_request_prefill_time_seconds"
REQUEST_DECODE_TIME: Final = "ryzanstein_request_decode_time_seconds"
REQUEST_PROMPT_TOKENS: Final = "ryzanstein_request_prompt_tokens"
REQUEST_GENERATION_TOKENS: Final = "ryzanstein_request_generation_tokens"
REQUEST_TIME_PER_OUTPUT_TOKEN: Final = "ryzanstein_request_time_per_output_token_seconds"
REQUESTS_REFUSED: Final = "ryzanstein_requests_refused"
REQUESTS_ABORTED: Final = "ryzanstein_requests_aborted"
KV_BLOCKS: Final = "ryzanstein_kv_blocks"
KV_BLOCKS_FREE: Final = "ryzanstein_kv_blocks_free"
ENGINE_STEP_TIME: Final = "ryzanstein_engine_step_time_seconds"
ENGINE_STEP_TOKENS: Final = "ryzanstein_engine_step_tokens"
ENGINE_HEARTBEAT_AGE: Final = "ryzanstein_engine_heartbeat_age_seconds"
COLLECTIVE_TIME: Final = "ryzanstein_collective_time_seconds"
MODEL_LOAD: Final = "ryzanstein_model_load_seconds"
WORKER_INFO: Final = "ryzanstein_worker_info"
GATEWAY_QUEUE_LENGTH: Final = "ryzanstein_gateway_queue_length"
GATEWAY_MODEL: Final = "model"
ACCELERATOR_HEALTHY: Final = "ryzanstein_accelerator_healthy"
METRIC_MODEL: Final = "model_name"
METRIC_FINISHED_REASON: Final = "finished_reason"
