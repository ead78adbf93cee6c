"""All that is made for one service, in the order it is made. Pure."""

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import policy, services, workers
from ryzanstein_operator.settings import Settings


def children(service: InferenceService, settings: Settings) -> tuple[Manifest, ...]:
    """One manifest for each of `names.CHILD_KINDS`: the account and the walls first, then the pods within them."""
    return (
        services.service_account(service),
        policy.network_policy(service, settings),
        services.workers_service(service),
        workers.deployment(service, settings),
        policy.disruption_budget(service),
    )
