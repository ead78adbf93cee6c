"""A metric that a real HorizontalPodAutoscaler reads, at the value that a test sets: external.metrics.k8s.io without an
API server of its own.

The HPA controller GETs /apis/external.metrics.k8s.io/v1beta1/namespaces/NAMESPACE/METRIC and decodes a list. A custom
resource whose plural is the metric's name, with ExternalMetricValue's fields, gives just that list.
"""

from datetime import UTC, datetime
from typing import Any, Final

from apiserver import ApiServer
from fakeapi import wait_until
from ryzanstein_worker.contract import SERIES_SERVICE

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"


class ExternalMetric:
    """The one metric of an API server, in one namespace: a value for each service, told apart by a label as real ones
    are. name: a DNS label, as plurals are. Served once it is made."""

    def __init__(self, server: ApiServer, namespace: str, name: str) -> None:
        self._server, self.name = server, name
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{name}"
        crd = _definition(name)
        server.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
        wait_until(lambda: server.get(self._path), 60, f"the metric {name}")

    def set(self, service: str, value: int) -> None:
        """From now on this is the service's."""
        labels = {SERIES_SERVICE: service}
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ExternalMetricValue",
            "metadata": {"name": service, "labels": labels},
            "metricName": self.name,
            "metricLabels": labels,
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": str(value),
        }
        self._server.apply(f"{self._path}/{service}", body)

    def source(self, service: str, target: dict[str, str]) -> dict[str, Any]:
        """The entry in an HPA's `metrics` that asks for it."""
        asked = {"name": self.name, "selector": {"matchLabels": {SERIES_SERVICE: service}}}
        return {"type": "External", "external": {"metric": asked, "target": target}}


def _definition(plural: str) -> dict[str, Any]:
    properties = {
        "metricName": {"type": "string"},
        "metricLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "timestamp": {"type": "string", "format": "date-time"},
        "value": {"type": "string"},
    }
    names = {"plural": plural, "kind": "ExternalMetricValue", "listKind": "ExternalMetricValueList"}
    schema = {"openAPIV3Schema": {"type": "object", "properties": properties}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            # Groups under k8s.io are Kubernetes' own: the API server wants it said that this one is a test's.
            "annotations": {"api-approved.kubernetes.io": "unapproved, stands in for a metrics adapter in a test"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": schema}],
        },
    }
