"""Asks workers for their pages: by the API server's proxy, else by a port forwarded through the kubelet.

Which of the two works depends on the cluster's network and on the user's rights, and is the same for all pods, so it is
found out once.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from ryzanstein_kubectl.cluster import forward
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.model.snapshot import PodKey, leaves
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_worker.contract import HEALTH_PORT

PROXY_SECONDS: Final = 1.5
"""A network policy that drops what the API server sends must not keep the user waiting."""
FORWARD_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 0.5
"""For a pod that was silent the last time: a live view must not stand still for one dead node."""
AT_ONE_TIME: Final = 16
PageT = TypeVar("PageT")


class Pages:
    """Reads pages of one kind of pod: workers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gate = asyncio.Semaphore(AT_ONE_TIME)
        self._proxy_blocked = False
        self._worked = False
        self._silent: set[PodKey] = set()

    async def read(
        self, pods: Iterable[Manifest], path: str, parse: Callable[[str], PageT]
    ) -> tuple[dict[PodKey, PageT], str]:
        """The pages of those pods that answer, and where some did not, one sentence that says why."""
        asked = [PodKey.of(pod) for pod in pods if pod.get("status", {}).get("podIP") and not _over(pod)]
        starting = {PodKey.of(pod) for pod in pods if not _answers(pod)}
        answers = await asyncio.gather(*(self._one(pod, path, parse) for pod in asked))
        found = {pod: answer for pod, answer in zip(asked, answers, strict=True) if not isinstance(answer, ApiError)}
        # A worker that starts or ends may well be silent; only what should answer and does not is worth a note.
        silent = [
            (pod, answer)
            for pod, answer in zip(asked, answers, strict=True)
            if isinstance(answer, ApiError) and pod not in starting
        ]
        return found, _note(silent, len(asked)) if silent else ""

    async def _one(self, pod: PodKey, path: str, parse: Callable[[str], PageT]) -> PageT | ApiError:
        async with self._gate:
            try:
                page = parse(await self._get(pod, path))
            except ApiError as error:
                self._silent.add(pod)
                return error
            except (ValueError, KeyError, TypeError):
                return ApiError(502, "what answers is no worker of this project")
        self._silent.discard(pod)
        return page

    async def _get(self, pod: PodKey, path: str) -> str:
        proxy = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}:{HEALTH_PORT}/proxy{path}"
        refused, limit = None, AGAIN_SECONDS if pod in self._silent else FORWARD_SECONDS
        if not self._proxy_blocked:
            try:
                text = await self._session.text(proxy, seconds=min(PROXY_SECONDS, limit))
            except (ApiError, TimeoutError) as error:
                refused = error if isinstance(error, ApiError) else ApiError(0, "the API server's proxy gave no answer")
            else:
                self._worked = True
                return text
        try:
            text = await forward.get(self._session, pod, HEALTH_PORT, path, seconds=limit)
        except ApiError as error:
            raise (refused or error) from error
        self._proxy_blocked = not self._worked
        return text


def _over(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def _answers(pod: Manifest) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return not leaves(pod) and bool(statuses) and all(status.get("ready") for status in statuses)


def _note(silent: list[tuple[PodKey, ApiError]], asked: int) -> str:
    (pod, error), count = silent[0], len(silent)
    who = pod.name if count == 1 else f"{count} of {asked} workers"
    if error.status == 403:
        cause = "it needs get on pods/proxy, or get and create on pods/portforward"
        return f"The load of {who} is not shown: you may not ask for it; {cause} (docs/kubectl.md)."
    return f"The load of {who} is not shown: {error.sentence}"
