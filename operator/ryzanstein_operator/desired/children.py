"""All that is made for one service, in the order it is made. Pure."""

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import groups, names, policy, services, workers
from ryzanstein_operator.settings import Settings


def children(service: InferenceService, settings: Settings, replicas: int) -> tuple[Manifest, ...]:
    """One manifest for each of `names.fixed_children`: the account and the walls first, then the pods within them.

    replicas: how many there are to be. Those of several pods are not among them: when each is made and ended is
    `decide`'s to say.
    """
    several = service.spec.parallelism.nodes > 1
    return (
        services.service_account(service),
        policy.network_policy(service, settings),
        services.workers_service(service),
        services.group_service(service) if several else workers.deployment(service, settings, replicas),
        policy.disruption_budget(service),
    )


def revision(service: InferenceService, settings: Settings) -> str:
    """The revision that the pods of this spec bear."""
    if service.spec.parallelism.nodes > 1:
        return groups.revision(service, settings)
    return str(workers.pod_template(service, settings)["metadata"]["labels"][names.LABEL_REVISION])
