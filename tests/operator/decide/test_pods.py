"""A broken pod's cause is told in words that a person can act on."""

from typing import Any

import pytest

from operator_builders import NOW, broken_pod, container, pod, ready_pod, service, unscheduled_pod
from ryzanstein_operator.api.reasons import Reason
from ryzanstein_operator.decide.pods import Trouble, last_sentence, workers, worst

SERVICE = service()
BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}


def trouble(manifest: dict[str, Any]) -> Trouble | None:
    (worker,) = workers([manifest], NOW)
    return worker.trouble


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"reason": reason, "message": message}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "message": message, "reason": reason}


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            container(waiting=waiting("ImagePullBackOff", 'Back-off pulling image "image:1": ErrImagePull: not found')),
            Reason.IMAGE_UNAVAILABLE,
            "image image:1 cannot be pulled: not found",
        ),
        (
            container(waiting=waiting("ErrImagePull", "not found")),
            Reason.IMAGE_UNAVAILABLE,
            "image image:1 cannot be pulled: not found",
        ),
        (
            container(waiting=waiting("InvalidImageName")),
            Reason.IMAGE_UNAVAILABLE,
            "image image:1 cannot be pulled: InvalidImageName",
        ),
        (
            container("fetch", waiting=waiting("CreateContainerConfigError", 'secret "hub" not found')),
            Reason.CONTAINER_REFUSED,
            'container fetch cannot be created: secret "hub" not found',
        ),
        (
            container(ended=ended(78, "The model directory /models/x does not exist.\n")),
            Reason.MODEL_UNUSABLE,
            "The model directory /models/x does not exist.",
        ),
        (
            container(waiting=BACK_OFF, ended=ended(78, "tensor 3 does not divide 8 heads.")),
            Reason.MODEL_UNUSABLE,
            "tensor 3 does not divide 8 heads.",
        ),
        (
            container(waiting=BACK_OFF, ended=ended(78)),
            Reason.MODEL_UNUSABLE,
            "the worker cannot use the model or its settings; see its log",
        ),
        (
            container("fetch", ended=ended(78, "hf://a/b does not exist.")),
            Reason.DOWNLOAD_FAILING,
            "the download fails: hf://a/b does not exist.",
        ),
        (
            container("fetch", waiting=BACK_OFF, ended=ended(69)),
            Reason.DOWNLOAD_FAILING,
            "the download fails: exit code 69 (the model's source cannot be reached)",
        ),
        (
            container(waiting=BACK_OFF, ended=ended(1, '{"level": "error", "message": "no CUDA device"}')),
            Reason.CRASH_LOOP,
            "container worker ends again and again, last with exit code 1: no CUDA device",
        ),
        (
            container(ended=ended(70, "rank 1 died")),
            Reason.RESTARTING,
            "container worker ended with exit code 70 (a rank was lost): rank 1 died, and is started again",
        ),
        (
            container(waiting=BACK_OFF, ended=ended(137, reason="OOMKilled")),
            Reason.OUT_OF_MEMORY,
            "container worker was killed for lack of memory on its node; "
            "set spec.resources.requests.memory to what the model needs",
        ),
    ],
)
def test_the_cause_is_named(status: dict[str, Any], reason: Reason, words: str) -> None:
    assert trouble(broken_pod(SERVICE, status)) == Trouble(reason, words)


def test_a_memory_limit_that_was_too_low_is_named() -> None:
    live = service(resources={"limits": {"memory": "1Gi"}})
    found = trouble(broken_pod(live, container(ended=ended(137, reason="OOMKilled"))))
    assert found is not None
    assert "more than its memory limit of 1Gi; raise spec.resources.limits.memory" in found.message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", Reason.UNSCHEDULABLE),
        ('0/3 nodes are available: persistentvolumeclaim "models" not found.', Reason.CLAIM_UNAVAILABLE),
        ("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.", Reason.CLAIM_UNAVAILABLE),
    ],
)
def test_the_scheduler_s_words_are_kept(words: str, reason: Reason) -> None:
    assert trouble(unscheduled_pod(SERVICE, words)) == Trouble(reason, words)


def test_a_worker_that_is_up_again_is_no_trouble() -> None:
    again = ready_pod(SERVICE)
    again["status"]["containerStatuses"][0]["lastState"] = {"terminated": ended(70)}
    assert trouble(again) is None


def test_a_worker_that_restarted_and_is_not_ready_says_why() -> None:
    status = {"name": "worker", "ready": False, "state": {"running": {}}, "lastState": {"terminated": ended(137)}}
    found = trouble(broken_pod(SERVICE, status))
    assert found == Trouble(
        Reason.RESTARTING, "container worker ended with exit code 137 (it was killed), and is started again"
    )


def test_a_download_that_failed_once_and_then_came_through_is_no_trouble() -> None:
    done = {"name": "fetch", "state": {"terminated": ended(0)}, "lastState": {"terminated": ended(69)}}
    found = pod(SERVICE, initContainerStatuses=[done], containerStatuses=[])
    assert trouble(found) is None
    assert workers([found], NOW)[0].fetched is True


def test_pods_on_their_way_out_are_not_counted() -> None:
    leaving = ready_pod(SERVICE, "leaving")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    evicted = pod(SERVICE, "evicted", phase="Failed")
    found = workers([ready_pod(SERVICE, "b"), leaving, evicted, ready_pod(SERVICE, "a")], NOW)
    assert [worker.name for worker in found] == ["a", "b"]


def test_a_pod_the_kubelet_has_not_seen_is_read() -> None:
    bare = {"metadata": {"name": "a"}, "spec": {}}
    (worker,) = workers([bare], NOW)
    assert not worker.ready
    assert not worker.scheduled
    assert worker.fetched is None


def test_what_only_the_user_can_mend_is_told_first() -> None:
    mends_itself = Trouble(Reason.RESTARTING, "a")
    needs_a_hand = Trouble(Reason.MODEL_UNUSABLE, "b")
    assert worst([mends_itself, needs_a_hand]) == needs_a_hand
    assert worst([]) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n", "two"),
        ('{"message": "said"}', "said"),
        ('{"other": 1}', '{"other": 1}'),
        ("[1]", "[1]"),
        ("{broken", "{broken"),
    ],
)
def test_the_last_sentence_of_a_log(text: str, sentence: str) -> None:
    assert last_sentence(text) == sentence
