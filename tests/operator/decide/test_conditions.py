"""What the conditions say in each situation: one row a situation, the conditions as status and reason."""

import re
from dataclasses import replace

import pytest

from operator_builders import (
    conditions_of,
    deployment_says,
    endpoints,
    live_children,
    pod,
    ready_pod,
    service,
    settled,
)
from ryzanstein_operator.api.reasons import REASONS
from status_situations import OLD, ONE, QUOTA, SITUATIONS, STALLED, TWO, saying


@pytest.mark.parametrize("title", SITUATIONS)
def test_the_conditions_tell_the_truth(title: str) -> None:
    observed, expected = SITUATIONS[title]
    found = conditions_of(observed)
    assert {kind: f"{found[kind]['status']} {found[kind]['reason']}" for kind in expected} == expected


@pytest.mark.parametrize("title", SITUATIONS)
def test_every_condition_is_there_with_a_documented_reason_and_words(title: str) -> None:
    found = conditions_of(SITUATIONS[title][0])
    assert list(found) == [str(kind) for kind in REASONS]
    for kind, reasons in REASONS.items():
        assert found[kind]["reason"] in reasons
        assert found[kind]["message"]
        assert found[kind]["observedGeneration"] == 3


@pytest.mark.parametrize(
    ("title", "kind", "words"),
    [
        ("one of two is killed", "Degraded", "b: container worker ended with exit code 137 (it was killed)"),
        ("one of two is killed", "Ready", "1 of 2 replicas are ready; b: container worker ended"),
        ("one of two is killed", "Serving", "1 replica answers requests"),
        ("no node has room", "CapacityAvailable", "1 of 2 replicas have no node; b: 0/2 nodes are available"),
        ("a quota forbids pods", "CapacityAvailable", "exceeded quota: gpus"),
        ("a bad model", "Ready", "The model is corrupt."),
        ("a rollout begins: the old revision serves all", "Progressing", "1 of 2 replicas run revision"),
        ("a rollout begins: the old revision serves all", "Progressing", "2 of an older revision are left"),
        ("a rollout is stuck on a bad model while the old revision serves", "Progressing", "The model is corrupt."),
        ("an older service has the model name", "Serving", "the older InferenceService team/first answers under"),
        ("the API server refuses a child", "Ready", "refuses Deployment team/chat: admission webhook said no"),
        ("a model on a claim", "ModelCached", "the volume claim models"),
    ],
)
def test_the_message_holds_the_actual_cause(title: str, kind: str, words: str) -> None:
    assert words in conditions_of(SITUATIONS[title][0])[kind]["message"]


WELL = {
    "Ready": "True",
    "Serving": "True",
    "Progressing": "False",
    "ModelCached": "True",
    "CapacityAvailable": "True",
    "Degraded": "False",
    "ScalingActive": "True",
    "ScalingLimited": "False",
}
PASSING = ("RollingOut", "NotConfigured", "Stabilizing", "ScalingUp")
FIELD_OR_OBJECT = re.compile(
    r"\bspec\.\w+|\b(Deployment|StatefulSet|Service|InferenceService|PodDisruptionBudget)\b|quota"
    r"|\b(minReplicas|maxReplicas|maxAccelerators|behavior|WaitingRequests)\b"
)


@pytest.mark.parametrize("title", SITUATIONS)
def test_what_is_not_as_it_should_be_names_something_to_act_on(title: str) -> None:
    """A pod, a node, an object, or a field of the spec."""
    observed = SITUATIONS[title][0]
    pods = [found["metadata"]["name"] for found in observed.pods] + [
        found["spec"]["nodeName"] for found in observed.pods
    ]
    for kind, condition in conditions_of(observed).items():
        if condition["status"] in (WELL[kind], "Unknown") or condition["reason"] in PASSING:
            continue
        message = condition["message"]
        named = [name for name in pods if name and re.search(rf"\b{re.escape(name)}\b", message)]
        assert named or FIELD_OR_OBJECT.search(message), f"{kind}: {message}"


@pytest.mark.parametrize(("unavailable", "ready"), [(0, "False"), (1, "True")])
def test_what_max_unavailable_allows_does_not_flip_ready_in_a_rollout(unavailable: int, ready: str) -> None:
    live = service(replicas=2, disruption={"maxUnavailable": unavailable})
    observed = saying(settled(live, ready_pod(live, "a", revision=OLD), pod(live, "b")))
    assert conditions_of(observed)["Ready"]["status"] == ready


def test_an_old_word_of_the_deployment_is_not_believed() -> None:
    children = deployment_says(live_children(ONE), STALLED, QUOTA)
    for child in children:
        child["metadata"]["generation"] = 2
    assert conditions_of(replace(settled(ONE), children=children))["Progressing"]["reason"] == "RollingOut"


def test_a_pod_in_two_slices_answers_once_and_a_terminating_one_not_at_all() -> None:
    both = settled(TWO, ready_pod(TWO, "a"), ready_pod(TWO, "b"))
    leaving = endpoints(TWO, "c")
    leaving["endpoints"][0]["conditions"] = {"ready": True, "terminating": True}
    other = endpoints(service("other"), "d")
    observed = replace(both, endpoint_slices=(*both.endpoint_slices, *both.endpoint_slices, leaving, other))
    assert conditions_of(observed)["Serving"]["message"] == "2 replicas answer requests"
