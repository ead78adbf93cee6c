"""What the release may do through the API is the golden list, is what the operator says it needs, and no more."""

import pytest

import chart
from chart import Grant
from ryzanstein_operator.cluster.resources import cluster_rules, role_rules

GOLDEN = chart.ROOT / "tests/contract/golden/rbac.txt"
OPERATOR = "ServiceAccount:ryzanstein/ryzanstein-operator"
GATEWAY = "ServiceAccount:ryzanstein/ryzanstein-gateway"
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate", "deletecollection", "approve", "sign"}
FORBIDDEN_RESOURCES = {"*", "secrets", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers",
                       "nodes/proxy", "services/proxy", "serviceaccounts/token", "roles", "rolebindings",
                       "clusterroles", "clusterrolebindings"}  # fmt: skip


ALLOWED = {(OPERATOR, "secrets", "create")}
"""But for these: whoever may only create Secrets reads none."""


def faults(grants: list[Grant]) -> list[str]:
    """What nobody in the release may ever do."""
    return [
        f"{grant.subject} may {grant.verb} {grant.resource}"
        for grant in grants
        if (grant.verb in FORBIDDEN_VERBS or grant.resource in FORBIDDEN_RESOURCES or grant.group == "*")
        and (grant.subject, grant.resource, grant.verb) not in ALLOWED
    ]


def test_the_default_install_grants_the_golden_list() -> None:
    lines = chart.grant_lines(chart.grants(chart.installed()))
    assert lines == GOLDEN.read_text().splitlines(), "a changed grant must be changed in golden/rbac.txt, in sight"


def test_the_operator_gets_what_its_own_list_of_resources_says() -> None:
    needed = {(rule.api_group, rule.resource, verb) for rule in role_rules() for verb in rule.verbs}
    needed |= {(rule.api_group, rule.resource, verb) for rule in cluster_rules(taints=False) for verb in rule.verbs}
    granted = {(g.group, g.resource, g.verb) for g in chart.grants(chart.installed()) if g.subject == OPERATOR}
    assert granted == needed


def test_what_lives_in_the_release_alone_is_granted_by_name() -> None:
    release_only = {(rule.api_group, rule.resource) for rule in role_rules() if rule.release_only}
    for grant in chart.grants(chart.installed()):
        if (grant.group, grant.resource) in release_only and (grant.resource, grant.verb) != ("leases", "create"):
            assert grant.name in ("ryzanstein-routes", "ryzanstein-operator"), grant


def test_nobody_may_read_secrets_run_commands_or_raise_rights() -> None:
    assert faults(chart.grants(chart.installed())) == []


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("patch", "secrets"),
        ("create", "pods/exec"),
        ("escalate", "roles"),
        ("*", "pods"),
    ],
)
def test_such_a_grant_would_be_noticed(verb: str, resource: str) -> None:
    assert faults([Grant(OPERATOR, "ryzanstein", "", resource, "", verb)])


def test_the_default_install_has_one_cluster_wide_right_to_read_nodes() -> None:
    wide = [grant for grant in chart.grants(chart.installed()) if grant.scope == "*"]
    assert {(grant.subject, grant.resource) for grant in wide} == {(OPERATOR, "nodes")}
    assert {grant.verb for grant in wide} == {"get", "list", "watch"}


def test_the_gateway_only_reads() -> None:
    verbs = {grant.verb for grant in chart.grants(chart.installed()) if grant.subject == GATEWAY}
    assert verbs == {"get", "list", "watch"}
