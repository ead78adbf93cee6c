"""How many replicas a service is to have now. Pure; the number itself is chosen in `scale.py`."""

from ryzanstein_operator.api.autoscaling import Autoscaling
from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.groups import groups_of, pods_a_replica
from ryzanstein_operator.decide.observed import Observed


def in_force(observed: Observed, service: InferenceService) -> int:
    """spec.replicas, or what spec.autoscaling has come to; that never goes into the user's spec."""
    autoscaling = service.spec.autoscaling
    if autoscaling is None:
        return service.spec.replicas
    return observed.decision.replicas if observed.decision else held(observed, autoscaling)


def held(observed: Observed, autoscaling: Autoscaling) -> int:
    """The size in force so far, also where this operator has only just begun: as the status says, else as the pods'
    owner has it. Never less for want of knowledge."""
    status = observed.service.get("status") or {}
    told = status.get("desiredReplicas")
    # A zero alone may be that of a spec which could not be run.
    if isinstance(told, int) and (told > 0 or status.get("autoscaling")):
        return told
    live = _standing(observed)
    return max(1, autoscaling.min_replicas) if live is None else live


def _standing(observed: Observed) -> int | None:
    """How many replicas the live objects are for; None where there are none."""
    if pods_a_replica(observed.service) > 1:
        return sum(group.leaving is None for group in groups_of(observed)) or None
    name = observed.service["metadata"]["name"]
    return next((_replicas(child) for child in observed.children if _is_deployment(child, name)), None)


def _is_deployment(child: Manifest, name: str) -> bool:
    return bool(child["kind"] == "Deployment" and child["metadata"]["name"] == name)


def _replicas(deployment: Manifest) -> int:
    return int(deployment["spec"].get("replicas", 1))
