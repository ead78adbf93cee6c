"""What the chart sets up for the operator on an API server: the custom resource, and its rights and no others."""

from collections.abc import Iterable

import yaml

from apiserver import OPERATOR, ApiServer
from fakeapi import wait_until
from ryzanstein_operator.api.crd import render
from ryzanstein_operator.cluster.resources import SERVICES, RoleRule, cluster_rules, role_rules

_RBAC = "/apis/rbac.authorization.k8s.io/v1"


def install_crd(server: ApiServer) -> None:
    """The custom resource, and wait until it is served."""
    crd = yaml.safe_load(render())
    server.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
    wait_until(lambda: server.get(SERVICES.path("default")), 30, "the CRD")


def grant(server: ApiServer, namespace: str, *, release_only: bool | None = None) -> None:
    """The Role's rights in a namespace: those where services live, those in the release's (`release_only`), or both."""
    rules = [rule for rule in role_rules() if release_only in (None, rule.release_only)]
    _bind(server, f"{_RBAC}/namespaces/{namespace}", "Role", rules)


def grant_nodes(server: ApiServer, *, taints: bool) -> None:
    """The ClusterRole's."""
    _bind(server, _RBAC, "ClusterRole", cluster_rules(taints=taints))


def _bind(server: ApiServer, path: str, kind: str, rules: Iterable[RoleRule]) -> None:
    written = [{"apiGroups": [r.api_group], "resources": [r.resource], "verbs": list(r.verbs)} for r in rules]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "operator"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}
    binding = {"metadata": {"name": "operator"}, "roleRef": role, "subjects": [subject]}
    server.request("POST", f"{path}/{kind.lower()}s", {"metadata": {"name": "operator"}, "rules": written})
    server.request("POST", f"{path}/{kind.lower()}bindings", binding)
