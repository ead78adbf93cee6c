"""What workers are told of traces, and the way that is opened for them. Pure; nothing where none are wanted."""

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.settings import Tracing


def trace_environment(tracing: Tracing | None) -> list[Manifest]:
    """OpenTelemetry's standard variables, which the worker and other servers read."""
    if tracing is None:
        return []
    values = {"OTEL_EXPORTER_OTLP_ENDPOINT": tracing.endpoint, "OTEL_SERVICE_NAME": "ryzanstein-worker"}
    if tracing.sample_percent < 100:
        values["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
        values["OTEL_TRACES_SAMPLER_ARG"] = f"{tracing.sample_percent / 100:.2f}"
    return [{"name": name, "value": value} for name, value in values.items()]


def trace_egress(tracing: Tracing | None) -> list[Manifest]:
    """The collector's name and port. Rules of a NetworkPolicy."""
    if tracing is None:
        return []
    collector: Manifest = {"ports": [{"protocol": "TCP", "port": tracing.port}]}
    if tracing.namespace_labels:
        collector["to"] = [{"namespaceSelector": {"matchLabels": dict(tracing.namespace_labels)}}]
    return [dns_egress(), collector]


def dns_egress() -> Manifest:
    """The cluster's own name service. A rule of a NetworkPolicy."""
    return {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
