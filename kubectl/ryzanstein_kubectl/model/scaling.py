"""How many replicas a service is to have, and what that was chosen by. Pure."""

from ryzanstein_kubectl.model.tree import Scaling
from ryzanstein_operator.api.wire import Manifest, section


def wanted(service: Manifest) -> int:
    """spec.replicas, or what the status says that spec.autoscaling came to."""
    spec, status = section(service, "spec"), section(service, "status")
    if not spec.get("autoscaling"):
        return int(spec.get("replicas", 1))
    lowest = max(1, int(section(spec, "autoscaling").get("minReplicas", 1)))
    return int(status.get("desiredReplicas", lowest))


def scaling(service: Manifest) -> Scaling | None:
    """What the size was last chosen by; None without spec.autoscaling."""
    asked = section(section(service, "spec"), "autoscaling")
    if not asked:
        return None
    told = section(section(service, "status"), "autoscaling")
    return Scaling(
        lowest=int(asked.get("minReplicas", 1)),
        highest=int(asked.get("maxReplicas", 0)),
        metric=str(told.get("metric", "")),
        value=str(told.get("value", "")),
        target=str(told.get("target", "")),
        message=str(told.get("message", "")),
    )
