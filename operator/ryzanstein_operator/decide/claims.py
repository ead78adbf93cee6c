"""Which service answers under which model name: the oldest keeps it. Pure.

Reads manifests, not models: also a service whose spec cannot be run keeps the name that clients know it by.
"""

from collections.abc import Iterable

from ryzanstein_operator.api.wire import Manifest


def model_name(service: Manifest) -> str:
    """What clients put in "model" for this service."""
    spec = service.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    name = model.get("name") if isinstance(model, dict) else None
    return name if isinstance(name, str) and name else str(service["metadata"]["name"])


def owners(services: Iterable[Manifest]) -> dict[str, Manifest]:
    """Each model name with the service that owns it; those that are being deleted own none."""
    owned: dict[str, Manifest] = {}
    for service in sorted(services, key=_age):
        if "deletionTimestamp" not in service["metadata"]:
            owned.setdefault(model_name(service), service)
    return owned


def _age(service: Manifest) -> tuple[str, str, str]:
    metadata = service["metadata"]
    return metadata.get("creationTimestamp") or "9999", metadata.get("namespace", ""), metadata["name"]


def same(one: Manifest, other: Manifest) -> bool:
    """Whether both are one resource."""
    return _place(one) == _place(other)


def _place(service: Manifest) -> tuple[str, str]:
    return service["metadata"].get("namespace", ""), service["metadata"]["name"]
