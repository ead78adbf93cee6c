"""What a container asks of its node: the spec's words, filled up where they are silent. Pure."""

from ryzanstein_operator.api.inference_service import CPU, Spec
from ryzanstein_operator.api.wire import Manifest

_CPU_MILLI_PER_RANK = 250
_MEMORY_MI_PER_RANK = 512


def container_resources(spec: Spec) -> Manifest:
    """Requests and limits of a pod's worker. Requests default small for each rank, limits to the accelerator's alone.

    A request is left out where the spec names a limit: Kubernetes takes the limit for it.
    """
    ranks = spec.parallelism.tensor // spec.parallelism.nodes
    limits = {name: str(amount) for name, amount in spec.resources.limits.items()}
    requests = {name: str(amount) for name, amount in spec.resources.requests.items()}
    defaults = {"cpu": f"{_CPU_MILLI_PER_RANK * ranks}m", "memory": f"{_MEMORY_MI_PER_RANK * ranks}Mi"}
    requests = {name: amount for name, amount in defaults.items() if name not in limits} | requests
    if spec.accelerator != CPU:
        limits[spec.accelerator] = str(ranks)
    return {name: part for name, part in (("requests", requests), ("limits", limits)) if part}


def fetch_resources(spec: Spec) -> Manifest:
    """Those of the download: the worker's, less the accelerator, so that the pod's sum is the worker's alone."""
    parts = container_resources(spec)
    device = "" if spec.accelerator == CPU else spec.accelerator
    kept = {part: {name: amounts[name] for name in amounts if name != device} for part, amounts in parts.items()}
    return {part: amounts for part, amounts in kept.items() if amounts}
