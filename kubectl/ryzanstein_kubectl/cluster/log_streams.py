"""Reads the logs of a service's pods: what there is, and what comes, over restarts and new pods."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from ryzanstein_kubectl.cluster.look import Scope
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.cluster.watching import watch_pods
from ryzanstein_kubectl.model.ages import NANOS
from ryzanstein_kubectl.model.logs import LogLine, end_note, parse_line
from ryzanstein_kubectl.model.snapshot import PodKey
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError

READ_SECONDS: Final = 60.0
AT_ONE_TIME: Final = 16
AGAIN_SECONDS: Final = 1.0
Take = Callable[[LogLine], None]


@dataclass(frozen=True)
class Reach:
    """How far back: the last `tail` lines of each container, and nothing older than `since_seconds`."""

    tail: int | None = None
    since_seconds: int | None = None

    def query(self) -> dict[str, str]:
        found = {"timestamps": "true"}
        if self.tail is not None:
            found["tailLines"] = str(self.tail)
        if self.since_seconds is not None:
            found["sinceSeconds"] = str(self.since_seconds)
        return found


@dataclass
class _Followed:
    """One container while it is followed. restarts: of the run that is read; read_nanos: up to where it has been read;
    manifest: the pod as last seen, None once it is gone; news: set with each change of it."""

    key: PodKey
    uid: str
    container: str
    restarts: int
    manifest: Manifest | None
    read_nanos: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


class LogReader:
    """Reads over one connection. `tell` takes a sentence about a container that cannot be read."""

    def __init__(self, session: Session, tell: Callable[[str], None]) -> None:
        self._session, self._tell = session, tell
        self._gate = asyncio.Semaphore(AT_ONE_TIME)
        self._followed: dict[tuple[str, str], _Followed] = {}

    async def history(self, pods: Iterable[Manifest], reach: Reach) -> list[LogLine]:
        """What is there now: of each container its present run, and before it the end of the one before."""
        runs = [(pod, status) for pod in pods for status in containers(pod)]
        read = await asyncio.gather(*(self._container(pod, status, reach) for pod, status in runs))
        return [line for lines in read for line in lines]

    async def _container(self, pod: Manifest, status: Manifest, reach: Reach) -> list[LogLine]:
        key, name = PodKey.of(pod), status["name"]
        lines: list[LogLine] = []
        if last := (status.get("lastState") or {}).get("terminated"):
            lines += await self._run(key, name, reach.query() | {"previous": "true"})
            lines.append(end_note(key.name, name, last))
        state = status.get("state") or {}
        if "running" in state or "terminated" in state:
            lines += await self._run(key, name, reach.query())
        if (ended := state.get("terminated")) and ended.get("exitCode") != 0:
            lines.append(end_note(key.name, name, ended))
        return lines

    async def _run(self, key: PodKey, container: str, query: dict[str, str]) -> list[LogLine]:
        async with self._gate:
            try:
                text = await self._session.text(_path(key), query | {"container": container}, seconds=READ_SECONDS)
            except (ApiError, TimeoutError) as error:
                if "previous" not in query:  # the end of an earlier run may well have been thrown away
                    self._tell(f"{key.name}: the log of container {container} cannot be read: {_words(error)}")
                return []
        return [parse_line(key.name, container, line) for line in text.splitlines() if line]

    # --- following ---------------------------------------------------------------------------------------

    async def follow(self, scope: Scope, known: Iterable[Manifest], read: Iterable[LogLine], take: Take) -> None:
        """Gives `take` what comes after `read`, which is the history of `known`; of pods that are new, everything.

        Goes on until it is cancelled. Raises ApiError for what will not pass by itself.
        """
        until: dict[tuple[str, str], int] = {}
        for line in read:
            place = (line.pod, line.container)
            until[place] = max(until.get(place, 0), line.read_nanos)
        seen = frozenset(pod["metadata"]["uid"] for pod in known)
        async with asyncio.TaskGroup() as group:
            async for pods in watch_pods(self._session, scope):
                self._forget(pods)
                for followed in self._begin(pods, seen, until):
                    group.create_task(self._follow_one(followed, take))

    def _forget(self, pods: dict[str, Manifest]) -> None:
        """Bring what is followed up to date."""
        for place, followed in list(self._followed.items()):
            followed.manifest = pods.get(followed.uid)
            followed.news.set()
            if followed.manifest is None:
                del self._followed[place]

    def _begin(
        self, pods: dict[str, Manifest], seen: frozenset[str], until: dict[tuple[str, str], int]
    ) -> Iterator[_Followed]:
        """Containers that have begun and are not followed yet."""
        for uid, pod in pods.items():
            for status in containers(pod):
                place, name = (uid, status["name"]), pod["metadata"]["name"]
                begun = any(state in (status.get("state") or {}) for state in ("running", "terminated"))
                if place not in self._followed and begun:
                    read = until.get((name, status["name"]), 0) if uid in seen else 0
                    restarts = int(status.get("restartCount", 0))
                    self._followed[place] = _Followed(PodKey.of(pod), uid, status["name"], restarts, pod, read)
                    yield self._followed[place]

    async def _follow_one(self, followed: _Followed, take: Take) -> None:
        """One container over all its runs, until its pod is gone or it has ended for good."""
        while True:
            await self._stream(followed, take)
            # It is over because the run is, because the pod is gone, or because the connection broke.
            ended = await _until(followed, _end_of_run, AGAIN_SECONDS)
            if ended is None:
                if followed.manifest is None:
                    return
                continue
            again = not _prepares(followed)
            if again or ended.get("exitCode"):
                take(end_note(followed.key.name, followed.container, ended))
            if not again or await _until(followed, _next_run, None) is None:
                return
            followed.restarts, followed.read_nanos = followed.restarts + 1, 0

    async def _stream(self, followed: _Followed, take: Take) -> None:
        """One run from where it has been read to its end, or until the connection breaks."""
        query = {"container": followed.container, "follow": "true", "timestamps": "true"}
        if followed.read_nanos:
            # Whole seconds is what the API takes; what comes twice is left out below.
            since = datetime.fromtimestamp(followed.read_nanos // NANOS, UTC)
            query["sinceTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            async for text in self._session.lines(_path(followed.key), query):
                line = parse_line(followed.key.name, followed.container, text)
                if text and line.read_nanos > followed.read_nanos:
                    followed.read_nanos = line.read_nanos
                    take(line)
        except ApiError as error:
            if error.status == 403:
                raise


def containers(pod: Manifest) -> list[Manifest]:
    """The states of a pod's containers, those that prepare it first."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


async def _until(
    followed: _Followed, look: Callable[[_Followed], Manifest | None], seconds: float | None
) -> Manifest | None:
    """What `look` finds in the pod as it changes; None when the pod is gone, or after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while followed.manifest is not None:
                if (found := look(followed)) is not None:
                    return found
                followed.news.clear()
                await followed.news.wait()
    except TimeoutError:
        pass
    return None


def _status(followed: _Followed) -> Manifest:
    found = containers(followed.manifest) if followed.manifest else []
    return next((status for status in found if status["name"] == followed.container), {})


def _end_of_run(followed: _Followed) -> Manifest | None:
    """How the run that is followed ended. While a later one runs, or is waited for, `lastState` tells of it."""
    status = _status(followed)
    state, restarts = status.get("state") or {}, int(status.get("restartCount", 0))
    if "terminated" in state and restarts == followed.restarts:
        return dict(state["terminated"])
    if restarts > followed.restarts or "waiting" in state:
        return (status.get("lastState") or {}).get("terminated")
    return None


def _next_run(followed: _Followed) -> Manifest | None:
    status = _status(followed)
    later = int(status.get("restartCount", 0)) > followed.restarts
    return status if later and "running" in (status.get("state") or {}) else None


def _prepares(followed: _Followed) -> bool:
    status = (followed.manifest or {}).get("status", {})
    return any(item["name"] == followed.container for item in status.get("initContainerStatuses") or ())


def _path(key: PodKey) -> str:
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}/log"


def _words(error: Exception) -> str:
    return error.sentence if isinstance(error, ApiError) else "no answer in time"
