"""What the conditions say in each situation: one row a situation, the conditions as status and reason."""

from dataclasses import replace
from typing import Any

import pytest

from operator_builders import (
    broken_pod,
    conditions_of,
    container,
    deployment_says,
    endpoints,
    live_children,
    pod,
    ready_pod,
    service,
    settled,
    unscheduled_pod,
)
from ryzanstein_operator.api.reasons import REASONS
from ryzanstein_operator.decide.observed import Observed, Ref

HUB = service(model={"uri": "hf://a/b"})
ONE, TWO, ZERO = service(), service(replicas=2), service(replicas=0)
CLAIM = service(model={"uri": "pvc://models/a"})
OLD = "0123456789"
STALLED = {
    "type": "Progressing",
    "status": "False",
    "reason": "ProgressDeadlineExceeded",
    "message": "ReplicaSet chat-1 has timed out",
}
QUOTA = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: gpus"}
UNUSABLE = container(ended={"exitCode": 78, "message": "The model is corrupt."})
FETCHING = {"name": "fetch", "state": {"running": {}}}
FETCHED = {"name": "fetch", "state": {"terminated": {"exitCode": 0}}}
FETCH_FAILS = container("fetch", ended={"exitCode": 69, "message": "the hub is away"})


def saying(observed: Observed, *conditions: dict[str, Any]) -> Observed:
    return replace(observed, children=deployment_says(observed.children, *conditions))


def named(name: str, *, rival_of: dict[str, Any]) -> Observed:
    older = service(name, created="2025-01-01T00:00:00Z", model={"uri": "demo://", "name": "chat"})
    return replace(settled(rival_of, ready_pod(rival_of)), services=(rival_of, older))


SITUATIONS: dict[str, tuple[Observed, dict[str, str]]] = {
    "nothing is there yet": (
        Observed(ONE),
        {
            "Ready": "False ReplicasStarting",
            "Serving": "False ReplicasStarting",
            "Progressing": "True RollingOut",
            "ModelCached": "True InImage",
            "CapacityAvailable": "Unknown Pending",
            "Degraded": "False AsExpected",
        },
    ),
    "all is well": (
        settled(TWO, ready_pod(TWO, "a"), ready_pod(TWO, "b")),
        {
            "Ready": "True AllReplicasReady",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutComplete",
            "ModelCached": "True InImage",
            "CapacityAvailable": "True Scheduled",
            "Degraded": "False AsExpected",
        },
    ),
    "one of two starts": (
        settled(TWO, ready_pod(TWO, "a"), pod(TWO, "b")),
        {"Ready": "False ReplicasStarting", "Serving": "True EndpointsReady", "Degraded": "False AsExpected"},
    ),
    "one of two is killed": (
        settled(TWO, ready_pod(TWO, "a"), broken_pod(TWO, container(ended={"exitCode": 137}), "b")),
        {
            "Ready": "False Restarting",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutComplete",
            "Degraded": "True Restarting",
        },
    ),
    "ready, but in no endpoint yet": (
        replace(settled(ONE, ready_pod(ONE)), endpoint_slices=(endpoints(ONE, "chat-a", ready=False),)),
        {"Ready": "True AllReplicasReady", "Serving": "False ReplicasStarting"},
    ),
    "a rollout begins: the old revision serves all": (
        saying(settled(TWO, ready_pod(TWO, "a", revision=OLD), ready_pod(TWO, "b", revision=OLD), pod(TWO, "c"))),
        {
            "Ready": "True PreviousRevisionServes",
            "Serving": "True EndpointsReady",
            "Progressing": "True RollingOut",
            "Degraded": "False AsExpected",
        },
    ),
    "a rollout is stuck on a bad model while the old revision serves": (
        saying(settled(ONE, ready_pod(ONE, "a", revision=OLD), broken_pod(ONE, UNUSABLE, "b")), STALLED),
        {
            "Ready": "True PreviousRevisionServes",
            "Serving": "True EndpointsReady",
            "Progressing": "False RolloutStalled",
            "Degraded": "True ModelUnusable",
        },
    ),
    "a rollout is stuck without a word": (
        saying(settled(ONE, pod(ONE)), STALLED),
        {"Progressing": "False RolloutStalled", "Degraded": "True RolloutStalled"},
    ),
    "a bad model": (
        settled(ONE, broken_pod(ONE, UNUSABLE)),
        {"Ready": "False ModelUnusable", "Serving": "False ModelUnusable", "Degraded": "True ModelUnusable"},
    ),
    "no node has room": (
        settled(TWO, ready_pod(TWO, "a"), unscheduled_pod(TWO, "0/2 nodes are available: 2 Insufficient cpu.", "b")),
        {
            "Ready": "False Unschedulable",
            "Serving": "True EndpointsReady",
            "CapacityAvailable": "False Unschedulable",
            "Degraded": "True Unschedulable",
        },
    ),
    "a quota forbids pods": (
        saying(settled(ONE), QUOTA),
        {"Ready": "False PodsRefused", "CapacityAvailable": "False PodsRefused", "Degraded": "True PodsRefused"},
    ),
    "a claim is missing": (
        settled(CLAIM, unscheduled_pod(CLAIM, 'persistentvolumeclaim "models" not found')),
        {
            "Ready": "False ClaimUnavailable",
            "ModelCached": "False ClaimUnavailable",
            "CapacityAvailable": "Unknown ClaimUnavailable",
        },
    ),
    "a model on a claim": (settled(CLAIM, ready_pod(CLAIM)), {"ModelCached": "True OnClaim"}),
    "no pod has begun to download": (settled(HUB), {"ModelCached": "Unknown Pending"}),
    "a download runs": (settled(HUB, pod(HUB, initContainerStatuses=[FETCHING])), {"ModelCached": "False Downloading"}),
    "a download is through": (
        settled(HUB, pod(HUB, initContainerStatuses=[FETCHED])),
        {"ModelCached": "True Downloaded", "Ready": "False ReplicasStarting"},
    ),
    "a download fails": (
        settled(HUB, broken_pod(HUB, FETCH_FAILS)),
        {"ModelCached": "False DownloadFailing", "Ready": "False DownloadFailing", "Degraded": "True DownloadFailing"},
    ),
    "scaled to zero": (
        settled(ZERO),
        {
            "Ready": "False ScaledToZero",
            "Serving": "False ScaledToZero",
            "Progressing": "False RolloutComplete",
            "CapacityAvailable": "True ScaledToZero",
            "Degraded": "False AsExpected",
        },
    ),
    "one too many still there": (
        settled(ONE, ready_pod(ONE, "a"), ready_pod(ONE, "b")),
        {"Ready": "True AllReplicasReady", "Progressing": "True RollingOut"},
    ),
    "an older service has the model name": (
        named("first", rival_of=ONE),
        {"Ready": "False ModelNameTaken", "Serving": "False ModelNameTaken", "Degraded": "False AsExpected"},
    ),
    "the API server refuses a child": (
        replace(
            settled(ONE, ready_pod(ONE)),
            refused={Ref("apps/v1", "Deployment", "team", "chat"): "admission webhook said no"},
        ),
        {
            "Ready": "False ApplyRefused",
            "Serving": "True EndpointsReady",
            "Progressing": "False ApplyRefused",
            "Degraded": "True ApplyRefused",
        },
    ),
}


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
        ("one of two is killed", "Ready", "1 of 2 replicas are ready: container worker ended"),
        ("one of two is killed", "Serving", "1 replica answers requests"),
        ("no node has room", "CapacityAvailable", "1 of 2 replicas have no node: 0/2 nodes are available"),
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
