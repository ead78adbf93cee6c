"""What a pod waits for, and which pods do not go: in words that are true and stay the same while that lasts."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from operator_builders import NOW, container, pod, ready_pod, service, unscheduled_pod
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.pods import Trouble, workers
from ryzanstein_operator.decide.steps import LEAVING_SECONDS, SETUP_SECONDS, leftover_words, next_change
from status_situations import leaving_pod, loading, set_up_pod

ONE = service()
HUB = service(model={"uri": "hf://a/b"})
GPUS = service(accelerator="nvidia.com/gpu", parallelism={"tensor": 2})
SINCE = "2026-01-02T03:00:00Z"
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": SINCE}
LOST = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-02T03:02:00Z"}
BACK_OFF = {"reason": "CrashLoopBackOff"}


def at(text: str, seconds: float = 0) -> datetime:
    return datetime.fromisoformat(text) + timedelta(seconds=seconds)


def trouble(found: dict[str, Any], now: datetime = NOW) -> Trouble | None:
    (worker,) = workers([found], now)
    return worker.trouble


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (unscheduled_pod(ONE, "no room"), "waits for a node"),
        (pod(ONE), "waits for its volumes and its image"),
        (
            set_up_pod(ONE, ready_to_start="False", since=SINCE),
            f"has been waiting for its volumes and network since {SINCE}",
        ),
        (set_up_pod(ONE, ready_to_start="True", since=SINCE), f"has been waiting for its image since {SINCE}"),
        (pod(HUB, initContainerStatuses=[loading("fetch", SINCE)]), f"has been downloading the model since {SINCE}"),
        (pod(ONE, containerStatuses=[loading(started=SINCE)]), f"has been loading the model since {SINCE}"),
        (
            pod(ONE, conditions=[SCHEDULED, LOST], containerStatuses=[loading(started=SINCE)]),
            "runs, but has not been ready since 2026-01-02T03:02:00Z",
        ),
    ],
)
def test_a_step_is_named_with_the_time_of_its_start(found: dict[str, Any], words: str) -> None:
    (worker,) = workers([found], NOW)
    assert worker.step == words
    assert workers([found], NOW + timedelta(hours=1))[0].step == words


def test_a_volume_that_is_not_mounted_within_a_minute_is_trouble() -> None:
    claim = service(model={"uri": "pvc://models/a"})
    found = set_up_pod(claim, ready_to_start="False", since=SINCE)
    assert trouble(found, at(SINCE, SETUP_SECONDS - 1)) is None
    late = trouble(found, at(SINCE, SETUP_SECONDS))
    assert late == trouble(found, at(SINCE, 3600))
    assert late == Trouble(
        Reason.POD_NOT_SET_UP,
        f"volume claim models or the network not set up on node node-1 since {SINCE}; see kubectl describe pod chat-a",
    )
    assert next_change([found], at(SINCE)) == SETUP_SECONDS
    assert next_change([found], at(SINCE, 3600)) is None


def test_a_slow_image_is_progress_and_no_trouble() -> None:
    assert trouble(set_up_pod(ONE, ready_to_start="True", since=SINCE), at(SINCE, 3600)) is None


def test_a_pod_that_should_be_gone_is_named_with_what_it_holds() -> None:
    found = leaving_pod(GPUS, due=SINCE)
    assert leftover_words([found], at(SINCE, LEAVING_SECONDS - 1)) == ()
    assert next_change([found], at(SINCE)) == LEAVING_SECONDS
    (words,) = leftover_words([ready_pod(GPUS, "other"), found], at(SINCE, LEAVING_SECONDS))
    assert words == (
        f"chat-a should have been gone since {SINCE} and holds 2 nvidia.com/gpu: node node-1 does not confirm its end"
    )
    found["metadata"]["finalizers"] = ["batch.example/hold"]
    assert "finalizers keep it (batch.example/hold)" in leftover_words([found], NOW)[0]


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_has_ended_holds_nothing(phase: str) -> None:
    found = leaving_pod(GPUS, due=SINCE)
    found["status"]["phase"] = phase
    assert leftover_words([found], NOW) == ()
    assert next_change([found], at(SINCE)) is None


@pytest.mark.parametrize(
    ("restarts", "ran_until", "reason"),
    [
        (1, "2026-01-02T03:00:05Z", Reason.RESTARTING),
        (2, "2026-01-02T03:00:05Z", Reason.CRASH_LOOP),
        (9, "2026-01-02T03:30:00Z", Reason.RESTARTING),
    ],
)
def test_a_worker_that_ends_often_is_said_to_also_between_its_ends(
    restarts: int, ran_until: str, reason: Reason
) -> None:
    last = {"exitCode": 1, "startedAt": SINCE, "finishedAt": ran_until}
    for state in ({"state": {"running": {}}, "lastState": {"terminated": last}}, {"state": {"terminated": last}}):
        found = pod(ONE, containerStatuses=[{"name": "worker", "ready": False, "restartCount": restarts, **state}])
        named = trouble(found)
        assert named is not None
        assert named.reason == reason
    waiting = {**container(waiting=BACK_OFF, ended=last), "restartCount": restarts}
    between = trouble(pod(ONE, containerStatuses=[waiting]))
    assert between is not None
    assert between.reason == Reason.CRASH_LOOP
    if reason == Reason.CRASH_LOOP:
        assert named == between


def test_the_port_of_one_try_to_pull_is_left_out() -> None:
    words = "dial tcp: read udp 10.244.1.5:38273->10.96.0.10:53: i/o timeout"
    found = trouble(pod(ONE, containerStatuses=[container(waiting={"reason": "ErrImagePull", "message": words})]))
    assert found is not None
    assert "10.244.1.5->10.96.0.10:53" in found.message
