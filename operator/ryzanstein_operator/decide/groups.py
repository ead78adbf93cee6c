"""Replicas that are groups of several pods, as the cluster shows them. Pure; reads StatefulSets and pods."""

from ryzanstein_operator.api.wire import Manifest


def pods_a_replica(service: Manifest) -> int:
    """`parallelism.nodes` of a live manifest, also of one whose spec cannot be run."""
    spec = service.get("spec")
    parallelism = spec.get("parallelism") if isinstance(spec, dict) else None
    nodes = parallelism.get("nodes") if isinstance(parallelism, dict) else None
    return nodes if isinstance(nodes, int) and nodes > 1 else 1
