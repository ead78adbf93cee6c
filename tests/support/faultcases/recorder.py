"""The independent watcher: every state of every object of the cases' namespaces, straight from the API server.

All kinds share one etcd, so the resource versions put the states of all objects into one order.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adminapi import AdminApi
from apiserver import ApiServer

Manifest = dict[str, Any]
Ident = tuple[str, str]
"""(kind, name)"""
KINDS = {
    "/apis/ryzanstein.dev/v1alpha1/inferenceservices": "InferenceService",
    "/apis/apps/v1/deployments": "Deployment",
    "/apis/apps/v1/replicasets": "ReplicaSet",
    "/apis/apps/v1/statefulsets": "StatefulSet",
    "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
    "/apis/policy/v1/poddisruptionbudgets": "PodDisruptionBudget",
    "/api/v1/services": "Service",
    "/api/v1/serviceaccounts": "ServiceAccount",
    "/api/v1/configmaps": "ConfigMap",
    "/api/v1/secrets": "Secret",
    "/api/v1/pods": "Pod",
}
WAIT_SECONDS = 90.0


@dataclass(frozen=True)
class State:
    """One object at one resource version. event: ADDED, MODIFIED or DELETED; at: when it was seen, monotonic."""

    version: int
    event: str
    kind: str
    manifest: Manifest
    at: float

    @property
    def ident(self) -> Ident:
        return self.kind, self.manifest["metadata"]["name"]


@dataclass
class History:
    """One namespace: what is, and what was since `start`. Guarded by `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    current: dict[Ident, Manifest] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    first: dict[Ident, Manifest] = field(default_factory=dict)
    last_at: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Forget what was."""
        with self.changed:
            self.first = dict(self.current)
            self.states = []

    def now(self) -> dict[Ident, Manifest]:
        """What is. The manifests are shared: do not change them."""
        with self.changed:
            return dict(self.current)

    def ordered(self) -> list[State]:
        """All states since `start`, in the order in which they came to be."""
        with self.changed:
            return sorted(self.states, key=lambda state: state.version)

    def wait(self, holds: Callable[[dict[Ident, Manifest]], bool], seconds: float) -> bool:
        """Until `holds` of what is, at most so long."""
        deadline = time.monotonic() + seconds
        while True:
            with self.changed:
                seen, found = len(self.states), dict(self.current)
            if holds(found):
                return True
            if time.monotonic() > deadline:
                return False
            with self.changed:
                self.changed.wait_for(lambda n=seen: len(self.states) != n, 0.5)  # type: ignore[misc]  # bound


class Recorder:
    """Watches all kinds in one thread. Use `recording`."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._histories: dict[str, History] = {}
        self._listed = threading.Semaphore(0)

    def of(self, namespace: str) -> History:
        return self._histories.setdefault(namespace, History())

    @contextlib.contextmanager
    def running(self) -> Iterator["Recorder"]:
        thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="recorder", daemon=True)
        thread.start()
        for _ in KINDS:
            assert self._listed.acquire(timeout=WAIT_SECONDS), "the recorder could not list a kind"
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(WAIT_SECONDS)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with AdminApi(self._server) as api:
            tasks = [asyncio.create_task(self._follow(api, path, kind)) for path, kind in KINDS.items()]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, api: AdminApi, path: str, kind: str) -> None:
        def listed(items: list[Manifest]) -> None:
            for item in items:
                self._saw(kind, "ADDED", item)
            self._listed.release()

        await api.follow(path, lambda event, manifest: self._saw(kind, event, manifest), listed)

    def _saw(self, kind: str, event: str, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        history = self.of(metadata["namespace"])
        state = State(int(metadata["resourceVersion"]), event, kind, manifest, time.monotonic())
        with history.changed:
            known = history.current.get(state.ident)
            if (
                known is not None
                and event != "DELETED"
                and known["metadata"]["resourceVersion"] == metadata["resourceVersion"]
            ):
                return  # listed anew
            if event == "DELETED":
                history.current.pop(state.ident, None)
            else:
                history.current[state.ident] = manifest
            history.states.append(state)
            history.last_at = state.at
            history.changed.notify_all()
