"""The Deployment of a service's workers, one pod a replica, fit for Pod Security `restricted`. Pure.

The pod template holds nothing that changes with the operator's version alone: a new operator restarts no worker.
"""

import hashlib
import json

from ryzanstein_operator.api.inference_service import InferenceService, Spec
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.arguments import fetch_arguments, serve_arguments
from ryzanstein_operator.desired.metadata import manifest
from ryzanstein_operator.desired.placement import apart, over_zones, tolerations
from ryzanstein_operator.desired.resources import container_resources, fetch_resources
from ryzanstein_operator.desired.source import MODELS_DIR, VOLUME, Download, model_source
from ryzanstein_operator.desired.traces import trace_environment
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import API_PORT, GRPC_PORT, HEALTH_LIVE, HEALTH_PORT, HEALTH_READY

USER = 10001
CONTAINER = "worker"
INIT_CONTAINER = "fetch"
GRACE_BEYOND_DRAIN_SECONDS = 15
"""Beyond `drainSeconds`: the 5 s in which a draining worker still accepts, and its way out."""
PROGRESS_DEADLINE_SECONDS = 1800
"""A first start may download and load for long; only after this is a rollout called stuck."""

_SCRATCH = {"tmp": ("/tmp", {"sizeLimit": "2Gi"}), "shm": ("/dev/shm", {"medium": "Memory", "sizeLimit": "1Gi"})}  # noqa: S108


def deployment(service: InferenceService, settings: Settings, replicas: int) -> Manifest:
    """The Deployment. replicas: the size in force, which is not always the spec's."""
    spec, name = service.spec, service.metadata.name
    rolling = {"maxSurge": spec.disruption.max_surge, "maxUnavailable": spec.disruption.max_unavailable}
    body = {
        "replicas": replicas,
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
        "selector": {"matchLabels": names.selector(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
        "template": pod_template(service, settings),
    }
    return manifest("apps/v1", "Deployment", service, {"spec": body})


def bare_template(service: InferenceService, settings: Settings) -> Manifest:
    """What the pods of one and of several pods a replica share, before it bears a revision."""
    name = service.metadata.name
    return {
        "metadata": {"labels": {**names.labels(name), **names.selector(name)}},
        "spec": _pod_spec(service, settings),
    }


def pod_template(service: InferenceService, settings: Settings) -> Manifest:
    """The pods' template, labelled with the revision that it is."""
    name = service.metadata.name
    template = bare_template(service, settings)
    revision = revision_of(template)
    template["metadata"]["labels"][names.LABEL_REVISION] = revision
    # By revision, so that the pods of an old one do not push the new ones onto one node.
    siblings = {**names.selector(name), names.LABEL_REVISION: revision}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": apart(siblings)}
    template["spec"] |= {"affinity": {"podAntiAffinity": preferred}, "topologySpreadConstraints": over_zones(siblings)}
    return template


def revision_of(template: Manifest) -> str:
    """Names a template by what is in it."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _pod_spec(service: InferenceService, settings: Settings) -> Manifest:
    spec = service.spec
    source = model_source(spec.model, settings)
    volumes: list[Manifest] = [{"name": name, "emptyDir": dict(limits)} for name, (_, limits) in _SCRATCH.items()]
    pod: Manifest = {
        "serviceAccountName": service.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.disruption.drain_seconds + GRACE_BEYOND_DRAIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": tolerations(spec.template.tolerations),
        "containers": [_worker(service, settings)],
        "volumes": volumes + ([source.volume] if source.volume else []),
    }
    if source.download:
        pod["initContainers"] = [_fetch(spec, source.download, settings)]
    if spec.template.node_selector:
        pod["nodeSelector"] = dict(spec.template.node_selector)
    return pod


def _worker(service: InferenceService, settings: Settings) -> Manifest:
    source = model_source(service.spec.model, settings)
    mounts: list[Manifest] = [{"name": name, "mountPath": path} for name, (path, _) in _SCRATCH.items()]
    if source.volume:
        mounts.append({"name": VOLUME, "mountPath": MODELS_DIR, "readOnly": True})
    container = _container(CONTAINER, service.spec, settings)
    return {
        **container,
        "args": serve_arguments(service, source),
        "env": [*container["env"], *trace_environment(settings.tracing)],
        "ports": [
            {"name": "api", "containerPort": API_PORT},
            {"name": "health", "containerPort": HEALTH_PORT},
            {"name": "grpc", "containerPort": GRPC_PORT},
        ],
        "resources": container_resources(service.spec),
        "volumeMounts": mounts,
        # The worker itself says whether loading goes on, so the start is over once it answers at all.
        "startupProbe": _probe(HEALTH_LIVE, every=2, failures=150),
        "livenessProbe": _probe(HEALTH_LIVE, every=5, failures=3),
        "readinessProbe": _probe(HEALTH_READY, every=2, failures=2),
    }


def _fetch(spec: Spec, download: Download, settings: Settings) -> Manifest:
    container = _container(INIT_CONTAINER, spec, settings)
    return {
        **container,
        "args": fetch_arguments(download),
        "env": [*container["env"], *download.environment],
        "resources": fetch_resources(spec),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": VOLUME, "mountPath": MODELS_DIR}],  # noqa: S108
    }


def _container(name: str, spec: Spec, settings: Settings) -> Manifest:
    """What the pod's two containers share."""
    return {
        "name": name,
        "image": spec.template.image or settings.worker_image,
        "imagePullPolicy": spec.template.image_pull_policy or settings.image_pull_policy,
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 (the pod's own scratch volume)
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The worker writes one sentence; a crash it did not foresee leaves the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(path: str, *, every: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "health"},
        "periodSeconds": every,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }
