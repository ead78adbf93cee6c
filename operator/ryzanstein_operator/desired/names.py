"""Every name and label that the operator gives. One function each, so that no two places derive a key differently."""

from ryzanstein_worker import contract

LABEL_REVISION = f"{contract.API_GROUP}/revision"
"""On a worker pod: which revision of the pod template it runs, so that pods tell old from new by themselves."""
ANNOTATION_APPLIED = f"{contract.API_GROUP}/applied"
"""On everything we make: a hash of the manifest as it was applied last."""
CHILD_KINDS = (
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
)
"""(apiVersion, kind) of everything made for one InferenceService, in the order it is made."""


def workers_service(service: str) -> str:
    """The headless Service over a service's worker pods."""
    return f"{service}-workers"


def child_name(kind: str, service: str) -> str:
    """The name of the one child of this kind."""
    return workers_service(service) if kind == "Service" else service


def selector(service: str) -> dict[str, str]:
    """Labels that select the worker pods of a service, and only them. Immutable in a Deployment: never add one."""
    return {contract.LABEL_SERVICE: service, contract.LABEL_ROLE: contract.ROLE_WORKER}


def selector_text(service: str) -> str:
    """`selector` as a string, for the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in selector(service).items())


def labels(service: str) -> dict[str, str]:
    """Labels of every object made for a service."""
    return {
        contract.LABEL_NAME: "ryzanstein",
        contract.LABEL_INSTANCE: service,
        contract.LABEL_COMPONENT: "worker",
        contract.LABEL_PART_OF: "ryzanstein",
        contract.LABEL_MANAGED_BY: contract.MANAGED_BY,
        contract.LABEL_SERVICE: service,
    }
