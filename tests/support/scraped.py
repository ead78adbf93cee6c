"""What a Prometheus with the chart's configuration would find in the cluster that the chart makes: no cluster needed.

Pods are those of the rendered Deployments and of a service's workers. Discovery is what the Kubernetes documentation of
Prometheus says of role `pod`: a target for each declared port of a container, with the pod's labels and names as
`__meta_kubernetes_*`. Relabelling, scraping and labels are left to a real Prometheus.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

import chart
import operated


@dataclass(frozen=True)
class Pod:
    """A pod as discovery sees it; `address` is where its health port is answered in the test."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    address: str
    phase: str = "Running"

    @classmethod
    def of(cls, workload: chart.Manifest, address: str, phase: str = "Running") -> "Pod":
        """A pod of a Deployment."""
        template, metadata = workload["spec"]["template"], workload["metadata"]
        ports = {
            port["name"]: port["containerPort"]
            for container in template["spec"]["containers"]
            for port in container.get("ports") or ()
        }
        name = f"{metadata['name']}-{phase.lower()}"
        return cls(name, metadata["namespace"], template["metadata"]["labels"], ports, address, phase)

    def targets(self) -> Iterator[dict[str, Any]]:
        """One a declared port. Only the health port is answered, so any other that is scraped is down."""
        meta = {"namespace": self.namespace, "pod_name": self.name, "pod_phase": self.phase}
        meta |= {f"pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": value for key, value in self.labels.items()}
        for name, port in self.ports.items():
            found = {**meta, "pod_container_port_name": name, "pod_container_port_number": str(port)}
            address = self.address if name == "health" else "127.0.0.1:9"
            yield {"targets": [address], "labels": {f"__meta_kubernetes_{key}": value for key, value in found.items()}}


def workers(manifests: Sequence[chart.Manifest], namespace: str) -> chart.Manifest:
    """The Deployment of the sample service `demo` in that namespace."""
    return operated.pods_of(operated.children_of(operated.samples()["demo.yaml"], manifests, namespace))


def config(manifests: Sequence[chart.Manifest]) -> dict[str, str]:
    """The files that the chart puts into /etc/prometheus."""
    files: dict[str, str] = chart.one(manifests, "ConfigMap", "ryzanstein-prometheus")["data"]
    return files


def scrape_jobs(manifests: Sequence[chart.Manifest], pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """The chart's jobs that look for pods, with what the API server would let them see in place of the looking."""
    jobs: list[dict[str, Any]] = []
    for job in yaml.safe_load(config(manifests)["prometheus.yaml"])["scrape_configs"]:
        (discovery,) = job.pop("kubernetes_sd_configs", [None])
        if discovery:
            seen = [pod for pod in pods if _sees(discovery, pod)]
            jobs.append({**job, "static_configs": [target for pod in seen for target in pod.targets()]})
    return jobs


def _sees(discovery: Mapping[str, Any], pod: Pod) -> bool:
    (selector,) = discovery["selectors"]
    wanted = dict(part.split("=") for part in selector["label"].split(","))
    namespaces = discovery.get("namespaces", {}).get("names")
    return wanted.items() <= pod.labels.items() and (namespaces is None or pod.namespace in namespaces)
