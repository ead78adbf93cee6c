"""Every name and label that the operator gives. One function each, so that no two places derive a key differently."""

from ryzanstein_worker import contract

NAME_REVISION = 6
"""Digits of a revision in a group's name; the label has all of them."""
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
"""(apiVersion, kind) of everything made for one InferenceService with one pod a replica, in the order it is made."""
GROUP_KIND = ("apps/v1", "StatefulSet")
"""Of each replica that is a group of several pods."""


def workers_service(service: str) -> str:
    """The headless Service over a service's worker pods."""
    return service + contract.SUFFIX_WORKERS


def child_name(kind: str, service: str) -> str:
    """The name of the one child of this kind."""
    return workers_service(service) if kind == "Service" else service


def group_service(service: str) -> str:
    """The headless Service that gives the pods of a service's groups their names."""
    return service + contract.SUFFIX_GROUP


def group_key(service: str) -> str:
    """The Secret with the key that the pods of a service's groups share."""
    return f"{service}-group-key"


def group(service: str, revision: str, index: int) -> str:
    """One group: its StatefulSet, which its pods are named after. At most 52 characters, as the controller needs for
    the label `controller-revision-hash`."""
    return f"{service}-{revision[:NAME_REVISION]}-{index}"


def group_leader(service: str, namespace: str, group_name: str) -> str:
    """The host name by which the other pods of a group find its first one."""
    return f"{group_name}-0.{group_service(service)}.{namespace}.svc"


def fixed_children(service: str, nodes: int) -> tuple[tuple[str, str, str], ...]:
    """(apiVersion, kind, name) of what a service has one of, in the order it is made; `nodes`: pods a replica."""
    found = [(version, kind, child_name(kind, service)) for version, kind in CHILD_KINDS]
    if nodes == 1:
        return tuple(found)
    rest = [entry for entry in found if entry[1] != "Deployment"]
    return (*rest[:-1], ("v1", "Service", group_service(service)), rest[-1])


def selector(service: str) -> dict[str, str]:
    """Labels that select the worker pods of a service, and only them. Immutable in a Deployment: never add one."""
    return {contract.LABEL_SERVICE: service, contract.LABEL_ROLE: contract.ROLE_WORKER}


def replica_selector(service: str, nodes: int) -> dict[str, str]:
    """Labels that select one pod of each replica: the first of a group, which answers for it."""
    return selector(service) if nodes == 1 else {**selector(service), contract.LABEL_POD_INDEX: "0"}


def selector_text(service: str, nodes: int = 1) -> str:
    """`replica_selector` as a string, for the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in replica_selector(service, nodes).items())


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
