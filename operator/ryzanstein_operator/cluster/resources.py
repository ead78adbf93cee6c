"""Every kind of object the operator touches and with which verbs: the one list behind paths, watches and the Role.

Knows names of the API; makes no call.
"""

from dataclasses import dataclass
from typing import Final

from ryzanstein_operator.decide.observed import Ref
from ryzanstein_worker import contract

READ: Final = ("get", "list", "watch")
OWN: Final = ("get", "list", "watch", "create", "patch", "delete")


@dataclass(frozen=True)
class Resource:
    """One kind.

    verbs: what the Role must allow (server-side apply is `patch`, and `create` where nothing is there yet).
    labelled: children, pods and slices are watched by the label of their service; False: watched whole or by name.
    release_only: touched in the release's namespace alone.
    cluster_scoped: has no namespace, so no Role can allow it.
    """

    api_version: str
    kind: str
    plural: str
    verbs: tuple[str, ...]
    labelled: bool = True
    release_only: bool = False
    cluster_scoped: bool = False

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of the collection (everywhere, or in `namespace`), or of one object."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


GROUP_VERSION: Final = f"{contract.API_GROUP}/{contract.API_VERSION}"

SERVICES: Final = Resource(GROUP_VERSION, "InferenceService", "inferenceservices", READ, labelled=False)
LEASES: Final = Resource(
    "coordination.k8s.io/v1",
    "Lease",
    "leases",
    ("get", "list", "watch", "create", "update"),
    labelled=False,
    release_only=True,
)
ROUTES: Final = Resource(
    "v1", "ConfigMap", "configmaps", ("get", "list", "watch", "create", "patch"), labelled=False, release_only=True
)
EVENTS: Final = Resource("events.k8s.io/v1", "Event", "events", ("create", "patch"), labelled=False)
PODS: Final = Resource("v1", "Pod", "pods", (*READ, "delete"))
SECRETS: Final = Resource("v1", "Secret", "secrets", ("create",), labelled=False)
"""The keys of groups: made, and never read. Whoever may only create Secrets learns nothing from them."""
NODES: Final = Resource("v1", "Node", "nodes", READ, labelled=False, cluster_scoped=True)
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", READ)
CHILDREN: Final = (
    Resource("apps/v1", "Deployment", "deployments", OWN),
    Resource("apps/v1", "StatefulSet", "statefulsets", OWN),
    Resource("v1", "Service", "services", OWN),
    Resource("v1", "ServiceAccount", "serviceaccounts", OWN),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", OWN),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", OWN),
)

SUBRESOURCES: Final = (
    # A controller owner reference with blockOwnerDeletion asks for update on the owner's finalizers where
    # OwnerReferencesPermissionEnforcement is on (OpenShift); no finalizer is ever written.
    (GROUP_VERSION, "inferenceservices/status", ("patch",)),
    (GROUP_VERSION, "inferenceservices/finalizers", ("update",)),
)

WATCHED: Final = (SERVICES, *CHILDREN, PODS, ENDPOINT_SLICES, ROUTES, LEASES)
CACHED: Final = (SERVICES, *CHILDREN, PODS, ENDPOINT_SLICES, ROUTES)
ALL: Final = (*WATCHED, NODES, EVENTS, SECRETS)

_BY_KIND: Final = {(resource.api_version, resource.kind): resource for resource in ALL}


def resource_of(ref: Ref) -> Resource:
    """The entry for `ref`'s kind. Raises KeyError for a kind that the operator never touches."""
    return _BY_KIND[ref.api_version, ref.kind]


def path_of(ref: Ref) -> str:
    return resource_of(ref).path(ref.namespace, ref.name)


@dataclass(frozen=True)
class RoleRule:
    """One rule of the Role, as the chart renders it."""

    api_group: str
    resource: str
    verbs: tuple[str, ...]
    release_only: bool


def role_rules() -> tuple[RoleRule, ...]:
    """All that the operator may do in namespaces, sorted: what the chart's Roles must say and no more."""
    rules = [RoleRule(r.group, r.plural, r.verbs, r.release_only) for r in ALL if not r.cluster_scoped]
    rules += [RoleRule(version.rpartition("/")[0], plural, verbs, False) for version, plural, verbs in SUBRESOURCES]
    return tuple(sorted(rules, key=lambda rule: (rule.api_group, rule.resource)))


def cluster_rules(*, taints: bool) -> tuple[RoleRule, ...]:
    """What the operator may do that belongs to no namespace: read nodes, and where it may taint them, patch them."""
    return (RoleRule(NODES.group, NODES.plural, (*NODES.verbs, "patch") if taints else NODES.verbs, False),)
