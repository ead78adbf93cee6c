"""What the operator may touch: least privilege, as one list."""

from ryzanstein_operator.cluster.resources import ALL, NODES, cluster_rules, role_rules
from ryzanstein_operator.desired import names


def test_the_operator_asks_for_nothing_dangerous() -> None:
    rules = role_rules()
    assert not {"pods/exec", "roles", "rolebindings", "nodes", "*"} & {rule.resource for rule in rules}
    assert not {"deletecollection", "escalate", "bind", "impersonate", "*"} & {v for rule in rules for v in rule.verbs}
    assert [rule.verbs for rule in rules if rule.resource == "secrets"] == [("create",)]


def test_what_has_no_namespace_is_nodes_to_be_read_and_to_be_tainted_where_that_is_allowed() -> None:
    assert [resource for resource in ALL if resource.cluster_scoped] == [NODES]
    assert {verb for rule in cluster_rules(taints=False) for verb in rule.verbs} == {"get", "list", "watch"}
    (rule,) = cluster_rules(taints=True)
    assert (rule.resource, rule.verbs) == ("nodes", ("get", "list", "watch", "patch"))


def test_every_kind_of_child_can_be_carried_out() -> None:
    known = {(resource.api_version, resource.kind): resource for resource in ALL}
    for kind in (*names.CHILD_KINDS, names.GROUP_KIND):
        assert {"create", "patch", "delete"} <= set(known[kind].verbs)


def test_a_resource_knows_its_paths() -> None:
    deployments = next(resource for resource in ALL if resource.kind == "Deployment")
    pods = next(resource for resource in ALL if resource.kind == "Pod")
    assert deployments.path("team", "chat") == "/apis/apps/v1/namespaces/team/deployments/chat"
    assert deployments.path() == "/apis/apps/v1/deployments"
    assert pods.path("team") == "/api/v1/namespaces/team/pods"
