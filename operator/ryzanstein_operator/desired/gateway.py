"""The gateway's route table: one ConfigMap over all services. Pure; who owns a contested name is decided elsewhere."""

from collections.abc import Iterable
from typing import Final

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.metadata import seal
from ryzanstein_operator.desired.route_table import pack
from ryzanstein_operator.settings import Settings
from ryzanstein_worker import contract

QUEUE_SECONDS: Final = 30
LOADING_SECONDS: Final = 600


def service_url(settings: Settings) -> str:
    """The base URL that OpenAI clients are given, or empty where the operator was told of no gateway."""
    return f"{settings.gateway_url}/v1" if settings.gateway_url else ""


def routes_config_map(routes: Iterable[Manifest], settings: Settings) -> Manifest:
    """The table; the same routes give the same bytes."""
    whole = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": contract.ROUTES_CONFIG_MAP,
            "namespace": settings.namespace,
            "labels": {
                contract.LABEL_NAME: "ryzanstein",
                contract.LABEL_COMPONENT: "routes",
                contract.LABEL_PART_OF: "ryzanstein",
                contract.LABEL_MANAGED_BY: contract.MANAGED_BY,
            },
        },
        **pack(routes),
    }
    return seal(whole)


def route(service: InferenceService) -> Manifest:
    """One model's row of the table. A limit that the spec leaves out is null: none."""
    access, routing = service.spec.access, service.spec.routing
    return {
        "model": service.model_name,
        "namespace": service.metadata.namespace,
        "service": names.workers_service(service.metadata.name),
        "port": contract.API_PORT,
        "healthPort": contract.HEALTH_PORT,
        "keySets": sorted(access.key_sets),
        "maxModelLen": service.spec.engine.max_model_len,
        "policy": routing.policy,
        "requestsPerMinute": access.requests_per_minute,
        "tokensPerMinute": access.tokens_per_minute,
        "maxConcurrentRequests": access.max_concurrent_requests,
        "maxQueuedRequests": routing.max_queued_requests,
        "queueTimeoutSeconds": routing.queue_timeout_seconds or _queue_timeout(service),
    }


def _queue_timeout(service: InferenceService) -> int:
    """Where the spec leaves it out: long enough for a model to load where the first request waits for that."""
    autoscaling = service.spec.autoscaling
    return LOADING_SECONDS if autoscaling and autoscaling.min_replicas == 0 else QUEUE_SECONDS
