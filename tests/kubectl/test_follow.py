"""Logs that are followed go on over restarts, new pods and broken connections, and no line is lost or shown twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fakeapi import refuse
from kubectl_world import TEAM, World, ago
from ryzanstein_kubectl.cluster import log_streams, watching
from ryzanstein_kubectl.cluster.log_streams import LogReader, Reach
from ryzanstein_kubectl.cluster.look import Scope, pods_of
from ryzanstein_kubectl.cluster.session import Access, Session
from ryzanstein_kubectl.model.logs import LogLine
from ryzanstein_operator.cluster.client import ApiError

Manifest = dict[str, Any]
POD = (TEAM, "chat-a")
SCOPE = Scope(TEAM, "chat")


class Followed:
    """What has been shown so far."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    @property
    def said(self) -> list[str]:
        return [line.message for line in self.lines]

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def follow(
    cluster: World, monkeypatch: pytest.MonkeyPatch, *, again_seconds: float = 20.0
) -> AsyncIterator[Followed]:
    """Follows the service's logs from now on, after what there is. `again_seconds`: how long the pod's own news of an
    end is waited for; whoever gives up sooner than it comes reads on in the next run."""
    monkeypatch.setattr(log_streams, "AGAIN_SECONDS", again_seconds)
    monkeypatch.setattr(watching, "PAUSE_SECONDS", 0.1)
    followed = Followed()
    session = await Session.open(Access(str(cluster.kubeconfig), "", TEAM))
    try:
        reader = LogReader(session, lambda _: None)
        pods = await pods_of(session, SCOPE)
        followed.lines += await reader.history(pods, Reach())
        task = asyncio.create_task(reader.follow(SCOPE, pods, list(followed.lines), followed.lines.append))
        yield followed
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        await session.close()


async def test_what_was_there_comes_once_and_then_what_comes(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.pod(cluster.service(), "chat-a")
    for text in ("one", "two"):
        cluster.side.log(POD, text)
    async with follow(cluster, monkeypatch) as followed:
        for text in ("three", "four"):
            cluster.side.log(POD, text)
        await followed.until(lambda: "four" in followed.said)
        assert followed.said == ["one", "two", "three", "four"]


async def test_a_container_that_is_started_again_is_followed_on_with_its_end_told(
    cluster: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = cluster.pod(cluster.service(), "chat-a")
    cluster.side.log(POD, "before")
    async with follow(cluster, monkeypatch) as followed:
        cluster.side.log(POD, "last words")
        await followed.until(lambda: "last words" in followed.said)
        ended = {"exitCode": 70, "message": "rank 1 died", "finishedAt": ago(0)}
        cluster.side.restart(POD)
        worker = {"name": "worker", "ready": False, "restartCount": 0, "state": {"terminated": ended}}
        cluster.api.put(pod | {"status": pod["status"] | {"containerStatuses": [worker]}})
        note = "container worker ended with exit code 70: rank 1 died"
        await followed.until(lambda: note in followed.said)
        cluster.side.log(POD, "anew")
        again = worker | {"restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": ended}}
        cluster.api.put(pod | {"status": pod["status"] | {"containerStatuses": [again]}})
        await followed.until(lambda: "anew" in followed.said)
        assert followed.said == ["before", "last words", note, "anew"]


async def test_a_new_pod_is_picked_up_and_one_that_goes_is_let_go(
    cluster: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = cluster.service()
    cluster.pod(live, "chat-a")
    cluster.side.log(POD, "old pod")
    async with follow(cluster, monkeypatch) as followed:
        cluster.side.log((TEAM, "chat-b"), "its first line")
        cluster.pod(live, "chat-b")
        await followed.until(lambda: "its first line" in followed.said)
        cluster.side.restart(POD)
        cluster.api.delete("Pod", *POD)
        cluster.side.log((TEAM, "chat-b"), "its second")
        await followed.until(lambda: "its second" in followed.said)
        assert followed.said == ["old pod", "its first line", "its second"]


async def test_a_broken_connection_is_taken_up_where_it_broke(cluster: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.pod(cluster.service(), "chat-a")
    cluster.side.log(POD, "one")
    async with follow(cluster, monkeypatch, again_seconds=0.3) as followed:
        cluster.side.log(POD, "two")
        await followed.until(lambda: "two" in followed.said)
        cluster.api.break_watches()
        cluster.side.break_streams()
        cluster.side.log(POD, "three")
        await followed.until(lambda: "three" in followed.said)
        cluster.side.log((TEAM, "chat-b"), "of a pod that came later")
        cluster.pod(cluster.service(), "chat-b")
        await followed.until(lambda: len(followed.said) > 3)
        assert followed.said == ["one", "two", "three", "of a pod that came later"]


async def test_a_watch_that_is_forbidden_ends_it_with_the_reason(
    cluster: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pod(cluster.service(), "chat-a")
    session = await Session.open(Access(str(cluster.kubeconfig)))
    cluster.api.faults.append(refuse("GET", "/pods", 403, "pods is forbidden"))
    try:
        with pytest.raises(ExceptionGroup) as ended:
            await LogReader(session, print).follow(SCOPE, (), (), print)
    finally:
        await session.close()
    (error,) = ended.value.exceptions
    assert isinstance(error, ApiError)
    assert error.sentence == "pods is forbidden"
