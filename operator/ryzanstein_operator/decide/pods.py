"""What one worker pod is doing and, where it is broken, why, in words for a person. Pure; reads pod manifests.

Knows the kubelet's and the scheduler's vocabulary and the worker's exit codes.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ryzanstein_operator.api.reasons import BROKEN, Reason
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.steps import fallen_since, setup_words, step
from ryzanstein_operator.decide.times import moment
from ryzanstein_operator.desired.names import LABEL_REVISION
from ryzanstein_worker.contract import EXIT_CONFIG, EXIT_GROUP_LOST, EXIT_UNAVAILABLE

_IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
_PULL_PREFIX = re.compile(r'^(Back-off pulling image "[^"]*"(: )?)?(ErrImagePull: )?')
_SOURCE_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+->")
"""Of the node's own end of a connection: another at each try, and of no use to anybody."""
_CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_OFTEN = 2
_WELL = timedelta(minutes=10)
_EXIT_WORDS = {
    EXIT_GROUP_LOST: "a rank was lost",
    EXIT_UNAVAILABLE: "the model's source cannot be reached",
    137: "it was killed",
    139: "segmentation fault",
    143: "it was told to end",
}


@dataclass(frozen=True)
class Trouble:
    """Why a pod is broken. witness: it has ended because another part of its replica did."""

    reason: Reason
    message: str
    witness: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Worker:
    """One replica that is not on its way out: a pod, or a group of pods (`replicas.py`) by the one to speak of.

    companions: the nodes of a group's other pods.
    fetched: the init container's state: None where there is none (yet), else whether it is through. step: what it
    waits for or does while it is not ready, a phrase that follows its name.
    """

    name: str
    node: str
    revision: str
    ready: bool
    scheduled: bool
    fetched: bool | None
    trouble: Trouble | None
    step: str
    companions: tuple[str, ...] = ()


def workers(pods: Iterable[Manifest], now: datetime) -> tuple[Worker, ...]:
    """The pods that live, by name; those terminating, evicted or finished are their controller's affair."""
    living = [pod for pod in pods if _lives(pod)]
    return tuple(_worker(pod, now) for pod in sorted(living, key=lambda pod: str(pod["metadata"]["name"])))


def worst(troubles: Iterable[Trouble]) -> Trouble | None:
    """The trouble to tell first: what only the user can mend before what may mend itself."""
    return min(troubles, key=lambda trouble: BROKEN.index(trouble.reason), default=None)


def _lives(pod: Manifest) -> bool:
    phase = pod.get("status", {}).get("phase")
    return "deletionTimestamp" not in pod["metadata"] and phase not in ("Failed", "Succeeded")


def _worker(pod: Manifest, now: datetime) -> Worker:
    status = pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    fetches = status.get("initContainerStatuses") or ()
    return Worker(
        name=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName", ""),
        revision=pod["metadata"].get("labels", {}).get(LABEL_REVISION, ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        scheduled=conditions.get("PodScheduled", {}).get("status") == "True",
        fetched=all(_exit_code(fetch.get("state", {})) == 0 for fetch in fetches) if fetches else None,
        trouble=_trouble(pod, conditions, now),
        step=step(pod, conditions),
    )


def _trouble(pod: Manifest, conditions: dict[str, Manifest], now: datetime) -> Trouble | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _unscheduled(str(scheduled.get("message", "")))
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        fetching = container in (status.get("initContainerStatuses") or ())
        found = _container_trouble(pod, container, fetching=fetching)
        if found:
            return found
    if words := setup_words(pod, conditions, now):
        return Trouble(Reason.POD_NOT_SET_UP, words)
    since = fallen_since(pod, conditions)
    return Trouble(Reason.REPLICA_LAGGING, f"it runs, but has not been ready since {since}") if since else None


def _unscheduled(words: str) -> Trouble:
    claim = "persistentvolumeclaim" in words.lower()
    return Trouble(Reason.CLAIM_UNAVAILABLE if claim else Reason.UNSCHEDULABLE, words or "the scheduler gave no reason")


def _container_trouble(pod: Manifest, container: Manifest, *, fetching: bool) -> Trouble | None:
    state = container.get("state", {})
    waiting = state.get("waiting", {})
    words = str(waiting.get("message", ""))
    if waiting.get("reason") in _IMAGE_REASONS:
        # The kubelet alternates between two wordings of one cause; the status must not.
        detail = _SOURCE_PORT.sub(r"\1->", _PULL_PREFIX.sub("", words)) or waiting["reason"]
        return Trouble(Reason.IMAGE_UNAVAILABLE, f"image {container.get('image', '')} cannot be pulled: {detail}")
    if waiting.get("reason") in _CREATE_REASONS:
        return Trouble(Reason.CONTAINER_REFUSED, f"container {container['name']} cannot be created: {words}")
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    settled = container.get("ready") or (fetching and _exit_code(state) == 0)
    if not ended or settled:
        return None
    looping = waiting.get("reason") == "CrashLoopBackOff" or _ends_often(container, ended)
    return _end_trouble(pod, container, ended, fetching=fetching, looping=looping)


def _ends_often(container: Manifest, ended: Manifest) -> bool:
    """Also between two ends: the kubelet says CrashLoopBackOff only while it waits, and the status must not alternate.

    Its own back-off starts anew for a container that has run for ten minutes.
    """
    started, finished = ended.get("startedAt"), ended.get("finishedAt")
    if container.get("restartCount", 0) < _OFTEN or not started or not finished:
        return False
    return moment(finished) - moment(started) < _WELL


def _end_trouble(pod: Manifest, container: Manifest, ended: Manifest, *, fetching: bool, looping: bool) -> Trouble:
    name, code = container["name"], ended.get("exitCode")
    sentence = last_sentence(str(ended.get("message", "")))
    if ended.get("reason") == "OOMKilled":
        return Trouble(Reason.OUT_OF_MEMORY, f"container {name} was killed for {_memory_words(pod, name)}")
    if fetching:
        return Trouble(Reason.DOWNLOAD_FAILING, f"the download fails: {sentence or _exit_words(code)}")
    if code == EXIT_CONFIG:
        return Trouble(
            Reason.MODEL_UNUSABLE, sentence or "the worker cannot use the model or its settings; see its log"
        )
    cause = f"{_exit_words(code)}{f': {sentence}' if sentence else ''}"
    witness = code == EXIT_GROUP_LOST
    if looping:
        return Trouble(Reason.CRASH_LOOP, f"container {name} ends again and again, last with {cause}", witness)
    return Trouble(Reason.RESTARTING, f"container {name} ended with {cause}, and is started again", witness)


def _memory_words(pod: Manifest, name: str) -> str:
    containers = [*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ())]
    limits = [spec.get("resources", {}).get("limits", {}).get("memory") for spec in containers if spec["name"] == name]
    if limits and limits[0]:
        return f"using more than its memory limit of {limits[0]}; raise spec.resources.limits.memory"
    return "lack of memory on its node; set spec.resources.requests.memory to what the model needs"


def _exit_code(state: Manifest) -> int | None:
    code = state.get("terminated", {}).get("exitCode")
    return code if isinstance(code, int) else None


def _exit_words(code: int | None) -> str:
    words = _EXIT_WORDS.get(code) if code is not None else None
    return f"exit code {code} ({words})" if words else f"exit code {code}"


def last_sentence(text: str) -> str:
    """The last line that says something: a termination message is one sentence, or else the end of a JSON log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    try:
        record = json.loads(lines[-1])
    except ValueError:
        return lines[-1]
    return str(record.get("message", lines[-1])) if isinstance(record, dict) else lines[-1]
