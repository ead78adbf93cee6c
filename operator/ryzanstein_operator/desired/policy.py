"""What may reach the workers, what they may reach, and how many may go at once. Pure.

Probes need no rule: they come from the node's kubelet, which network plugins let through.
"""

from urllib.parse import urlsplit

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.metadata import manifest
from ryzanstein_operator.desired.traces import dns_egress, trace_egress
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import API_PORT, GROUP_PORT, HEALTH_PORT

EPHEMERAL_PORTS = (32768, 60999)
"""What a pod's network namespace hands out, and so where the ranks' collectives (gloo, NCCL) listen."""


def network_policy(service: InferenceService, settings: Settings) -> Manifest:
    """Nothing in or out but what is listed: the gateway's requests and checks, scrapes, a hub's download, traces."""
    spec = {
        "podSelector": {"matchLabels": names.selector(service.metadata.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [*_ingress(settings), *_from_group(service)],
        "egress": [*_egress(service, settings), *trace_egress(settings.tracing), *_to_group(service, settings)],
    }
    return manifest("networking.k8s.io/v1", "NetworkPolicy", service, {"spec": spec})


def _ingress(settings: Settings) -> list[Manifest]:
    home = {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}}
    gateway = {"namespaceSelector": home, "podSelector": {"matchLabels": dict(settings.gateway_labels)}}
    rules = [{"from": [gateway], "ports": [_tcp(API_PORT), _tcp(HEALTH_PORT)]}]
    scrapers: list[Manifest] = []
    if settings.prometheus_labels:
        scrapers.append({"namespaceSelector": home, "podSelector": {"matchLabels": dict(settings.prometheus_labels)}})
    if settings.metrics_namespace_labels:
        scrapers.append({"namespaceSelector": {"matchLabels": dict(settings.metrics_namespace_labels)}})
    return [*rules, {"from": scrapers, "ports": [_tcp(HEALTH_PORT)]}] if scrapers else rules


def _egress(service: InferenceService, settings: Settings) -> list[Manifest]:
    """Names and the hub, for a model that is downloaded. The policy holds for the pod, so the worker shares it."""
    if not service.spec.model.uri.startswith("hf://"):
        return []
    endpoint = urlsplit(settings.hub_endpoint or "https://")
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    return [{"ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]}, {"ports": [_tcp(port)]}]


def _from_group(service: InferenceService) -> list[Manifest]:
    """The pods of one group to each other. A policy cannot say "of the same group", so it is all groups of the service;
    their key tells them apart."""
    if service.spec.parallelism.nodes == 1:
        return []
    return [{"from": [_group_pods(service)], "ports": _group_ports()}]


def _to_group(service: InferenceService, settings: Settings) -> list[Manifest]:
    """The same way out, and the names by which pods find one another."""
    if service.spec.parallelism.nodes == 1:
        return []
    names_rule = [] if settings.tracing else [dns_egress()]
    return [*names_rule, {"to": [_group_pods(service)], "ports": _group_ports()}]


def _group_pods(service: InferenceService) -> Manifest:
    return {"podSelector": {"matchLabels": names.selector(service.metadata.name)}}


def _group_ports() -> list[Manifest]:
    first, last = EPHEMERAL_PORTS
    return [_tcp(GROUP_PORT), {**_tcp(first), "endPort": last}]


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}


def disruption_budget(service: InferenceService) -> Manifest:
    """How many pods a node drain may take at once: at least one, or a node could never be emptied.

    Pods, also where a replica is a group of several: each that goes takes its whole group with it for a while, whose
    other pods are then not ready and leave nothing over for a second group.
    """
    spec = {
        "maxUnavailable": max(1, service.spec.disruption.max_unavailable),
        "selector": {"matchLabels": names.selector(service.metadata.name)},
        # A broken replica serves nobody; it must not keep a node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return manifest("policy/v1", "PodDisruptionBudget", service, {"spec": spec})
