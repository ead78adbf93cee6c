"""The evaluator of NetworkPolicies gives the verdicts that Kubernetes documents."""

from typing import Any

import pytest

from netpol import Network, Peer, selects

A = Peer("10.0.0.1", "one", {"app": "a"})
B = Peer("10.0.0.2", "one", {"app": "b"}, {"http": 80})
FAR = Peer("10.0.0.3", "two", {"app": "a"})
NOWHERE = Peer("192.0.2.1")
NAMESPACES = {"one": {"kubernetes.io/metadata.name": "one"}, "two": {"kubernetes.io/metadata.name": "two"}}
TO_B = {"podSelector": {"matchLabels": {"app": "b"}}}
A_ONLY = {"podSelector": {"matchLabels": {"app": "a"}}}
TWO = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "two"}}}


def policy(**spec: Any) -> dict[str, Any]:
    kinds = [word for word, key in (("Ingress", "ingress"), ("Egress", "egress")) if key in spec]
    return {"metadata": {"name": "p", "namespace": "one"}, "spec": {"podSelector": {}, "policyTypes": kinds, **spec}}


def into_b(*rules: Any) -> Network:
    return Network((policy(**TO_B, ingress=list(rules)),), NAMESPACES)


CASES = [
    ("no policy lets all pass", Network((), NAMESPACES), NOWHERE, B, 80, True),
    ("a selected pod takes in only what a rule names", into_b(), A, B, 80, False),
    ("a pod that no policy selects stays open", into_b(), B, A, 80, True),
    ("an empty rule lets everybody in", into_b({}), NOWHERE, B, 80, True),
    ("a pod selector alone means the policy's own namespace", into_b({"from": [A_ONLY]}), A, B, 80, True),
    ("and not the same labels elsewhere", into_b({"from": [A_ONLY]}), FAR, B, 80, False),
    ("a namespace selector takes every pod there", into_b({"from": [TWO]}), FAR, B, 80, True),
    ("and none from home", into_b({"from": [TWO]}), A, B, 80, False),
    ("both in one peer must both hold", into_b({"from": [{**TWO, **TO_B}]}), FAR, B, 80, False),
    ("two peers are alternatives", into_b({"from": [TWO, A_ONLY]}), A, B, 80, True),
    ("a selector matches no address outside", into_b({"from": [{"namespaceSelector": {}}]}), NOWHERE, B, 80, False),
    ("a block takes its addresses", into_b({"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}), NOWHERE, B, 80, True),
    (
        "but for its exceptions",
        into_b({"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30"]}}]}),
        NOWHERE,
        B,
        80,
        False,
    ),
    ("ports restrict", into_b({"ports": [{"port": 80}]}), A, B, 81, False),
    ("a port may have a name", into_b({"ports": [{"port": "http"}]}), A, B, 80, True),
    ("which only the target's ports resolve", into_b({"ports": [{"port": "http"}]}), A, B, 81, False),
    ("a range has an end", into_b({"ports": [{"port": 80, "endPort": 90}]}), A, B, 90, True),
    ("and stops there", into_b({"ports": [{"port": 80, "endPort": 90}]}), A, B, 91, False),
    ("TCP is the default protocol", into_b({"ports": [{"port": 80, "protocol": "UDP"}]}), A, B, 80, False),
    ("egress holds the sender", Network((policy(**A_ONLY, egress=[]),), NAMESPACES), A, B, 80, False),
    ("an egress-only policy lets all in", Network((policy(**TO_B, egress=[]),), NAMESPACES), A, B, 80, True),
    (
        "policies add up",
        Network((policy(**TO_B, ingress=[]), policy(**TO_B, ingress=[{"from": [A_ONLY]}])), NAMESPACES),
        A,
        B,
        80,
        True,
    ),
    (
        "sender and receiver must agree",
        Network((policy(**A_ONLY, egress=[{}]), policy(**TO_B, ingress=[])), NAMESPACES),
        A,
        B,
        80,
        False,
    ),
]


@pytest.mark.parametrize(
    ("network", "source", "target", "port", "passes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_verdict(network: Network, source: Peer, target: Peer, port: int, passes: bool) -> None:
    assert network.allows(source, target, port) is passes


def expression(operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "app", "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        (expression("In", "a", "b"), {"app": "a"}, True),
        (expression("In", "a", "b"), {}, False),
        (expression("NotIn", "a"), {"app": "b"}, True),
        (expression("NotIn", "a"), {}, True),
        (expression("Exists"), {"app": ""}, True),
        (expression("DoesNotExist"), {"app": "a"}, False),
        ({"matchLabels": {"app": "a"}, **expression("NotIn", "a")}, {"app": "a"}, False),
        ({}, {"any": "thing"}, True),
    ],
)
def test_selector(selector: dict[str, Any], labels: dict[str, str], matches: bool) -> None:
    assert selects(selector, labels) is matches


def test_what_cannot_be_evaluated_is_refused_and_not_guessed() -> None:
    vague = {"metadata": {"name": "vague", "namespace": "one"}, "spec": {"podSelector": {}}}
    with pytest.raises(ValueError, match="vague does not say its policyTypes"):
        Network((vague,), NAMESPACES).allows(A, B, 80)
    with pytest.raises(ValueError, match="no operator 'Like'"):
        selects(expression("Like", "a"), {"app": "a"})
