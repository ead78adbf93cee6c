"""Nodes without machines: schedules the pods of a real API server and reports them as running. Nothing is started.

One thread with an event loop; it watches pods and nodes, binds what fits (`fakescheduler`), writes `pods/status` and
ends what is being deleted. Quick enough for thousands of pods. Use one on an API server at a time:

    with fake_kubelet(server, nodes=3, slots=4) as kubelet:
        kubelet.kill_pod("team", "chat-0", exit_code=137)
        kubelet.fail_node("node-2")
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import aiohttp

from adminapi import MERGE, AdminApi
from apiserver import ApiServer
from fakepods import condition, node_of, now, path_of, restarts_of, running
from fakescheduler import Scheduler

Manifest = dict[str, Any]
Seconds = Callable[[Manifest], float | None]
"""For a pod: after how many seconds, or None for never."""
WAIT_SECONDS = 60.0
AGAIN_SECONDS = 0.2


class FakeKubelet:
    """starts: when a bound pod becomes Running and Ready. ends: when a pod that is being deleted is gone. Both may be
    set anew at any time and hold for pods that are looked at from then on."""

    def __init__(self, server: ApiServer, *, starts: Seconds, ends: Seconds) -> None:
        self.starts, self.ends = starts, ends
        self._server = server
        self._scheduler = Scheduler()
        self._pods: dict[str, Manifest] = {}
        self._waiting: dict[str, str] = {}  # UID of an unschedulable pod: the words it bears
        self._begun: set[tuple[str, str]] = set()  # (UID, "start" or "end")
        self._failed: set[str] = set()
        self._addresses = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listed = {"nodes": threading.Event(), "pods": threading.Event()}

    # --- what tests do to pods and nodes -------------------------------------------------------------

    def kill_pod(
        self, namespace: str, name: str, *, exit_code: int = 137, reason: str = "Error", restart_after: float = 0.2
    ) -> None:
        """The worker's container ends with `exit_code`, and the kubelet starts it again after `restart_after` seconds.
        Raises KeyError where there is no such pod."""
        self._wait(self._kill(namespace, name, exit_code, reason, restart_after))

    def set_ready(self, namespace: str, name: str, ready: bool) -> None:
        """What the readiness probe says from now on."""
        self._wait(self._set_ready(namespace, name, ready))

    def fail_node(self, name: str) -> None:
        """The node's kubelet falls silent, and the control plane has noticed: Ready is Unknown, its pods not ready."""
        self._failed.add(name)
        self._wait(self._report(name, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."))

    def has_taint(self, node: str, key: str) -> bool:
        """Whether the scheduler has heard of a taint: until then it puts pods on the node."""
        return any(taint["key"] == key for taint in self._scheduler.nodes[node].taints)

    def cut_off_node(self, name: str) -> None:
        """The node's machine is dead, and the control plane has not noticed: nothing of it changes any more."""
        self._failed.add(name)

    def restore_node(self, name: str) -> None:
        """The node is back: it ends the pods that were deleted meanwhile, and the others are ready again."""
        self._failed.discard(name)
        self._wait(self._report(name, "True", "KubeletReady", "kubelet is posting ready status"))

    # --- life ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alive(self, nodes: list[Manifest]) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._main(nodes)), name="fake-kubelet", daemon=True)
        thread.start()
        if not all(listed.wait(WAIT_SECONDS) for listed in self._listed.values()):
            raise RuntimeError("the fake kubelet could not list pods and nodes")
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(WAIT_SECONDS)

    async def _main(self, nodes: list[Manifest]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with AdminApi(self._server) as self._api:
            await asyncio.gather(*(self._add_node(node) for node in nodes))
            self._spawn(self._api.follow("/api/v1/nodes", self._saw_node, self._listed_nodes))
            self._spawn(self._api.follow("/api/v1/pods", self._saw_pod, self._listed_pods))
            await self._stop.wait()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    async def _find(self, namespace: str, name: str) -> Manifest:
        """As the API server has it: who asks may have seen more of it there than the watch has told yet."""
        pod = await self._api.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        if "podIP" not in pod.get("status", {}):
            raise KeyError(f"there is no pod {namespace}/{name} that runs")
        return pod

    # --- what is seen ----------------------------------------------------------------------------------

    def _listed_pods(self, pods: list[Manifest]) -> None:
        for uid in set(self._pods) - {pod["metadata"]["uid"] for pod in pods}:
            self._forget(uid)
        for pod in pods:
            self._saw_pod("ADDED", pod)
        self._listed["pods"].set()

    def _listed_nodes(self, nodes: list[Manifest]) -> None:
        for node in nodes:
            self._saw_node("ADDED", node)
        self._listed["nodes"].set()

    def _saw_node(self, kind: str, node: Manifest) -> None:
        if kind != "DELETED":
            self._scheduler.put_node(node)
            self._try_waiting()

    def _saw_pod(self, kind: str, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid)
            return
        self._pods[uid] = pod
        node = pod["spec"].get("nodeName")
        if node is None:
            if "deletionTimestamp" not in pod["metadata"]:
                self._schedule(pod)
            return
        self._scheduler.place(pod, node)
        if node in self._failed:
            return
        if "deletionTimestamp" in pod["metadata"]:
            self._once(uid, "end", self._end)
        elif pod["status"].get("phase") == "Pending":
            self._once(uid, "start", self._start)

    def _once(self, uid: str, step: str, work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        if (uid, step) not in self._begun:
            self._begun.add((uid, step))
            self._spawn(self._insist(lambda: work(uid)))

    async def _insist(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As a kubelet does while the API server is away or has too much to do."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                return await work()
            await asyncio.sleep(AGAIN_SECONDS)

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)
        self._waiting.pop(uid, None)
        self._begun -= {(uid, "start"), (uid, "end")}
        if self._scheduler.forget(uid):
            self._try_waiting()

    # --- scheduling -------------------------------------------------------------------------------------

    def _schedule(self, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        node, words = self._scheduler.choose(pod)
        if node:
            self._waiting.pop(uid, None)
            self._scheduler.place(pod, node)
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            body = {"metadata": {"name": pod["metadata"]["name"], "uid": uid}, "target": target}
            self._spawn(self._insist(lambda: self._bind(pod, body)))
        elif self._waiting.get(uid) != words:
            self._waiting[uid] = words
            said = condition("PodScheduled", "False", reason="Unschedulable", message=words)
            self._spawn(self._insist(lambda: self._write(pod, {"conditions": [said]})))

    def _try_waiting(self) -> None:
        for uid in list(self._waiting):
            self._schedule(self._pods[uid])

    async def _bind(self, pod: Manifest, body: Manifest) -> None:
        answer = await self._api.call("POST", f"{path_of(pod)}/binding", body)
        if answer.get("code") not in (None, 201):
            self._scheduler.forget(pod["metadata"]["uid"])

    # --- what a kubelet does -----------------------------------------------------------------------------

    async def _start(self, uid: str) -> None:
        delay = self.starts(self._pods[uid])
        if delay is None:
            return
        await asyncio.sleep(delay)
        pod = self._pods.get(uid)
        if pod is not None and "deletionTimestamp" not in pod["metadata"]:
            await self._write(pod, running(pod, self._address(), ready=True, restarts=0))

    async def _end(self, uid: str) -> None:
        delay = self.ends(self._pods[uid])
        if delay is None:
            return
        await asyncio.sleep(delay)
        if (pod := self._pods.get(uid)) is None or pod["spec"]["nodeName"] in self._failed:
            self._begun.discard((uid, "end"))
            return
        await self._api.call("DELETE", path_of(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    async def _set_ready(self, namespace: str, name: str, ready: bool) -> None:
        pod = await self._find(namespace, name)
        await self._write(pod, running(pod, pod["status"]["podIP"], ready=ready, restarts=restarts_of(pod)))

    async def _kill(self, namespace: str, name: str, exit_code: int, reason: str, restart_after: float) -> None:
        pod = await self._find(namespace, name)
        address, restarts = pod["status"]["podIP"], restarts_of(pod) + 1
        ended = {"exitCode": exit_code, "reason": reason, "startedAt": now(), "finishedAt": now()}
        down = running(pod, address, ready=False, restarts=restarts - 1)
        for status in down["containerStatuses"]:
            status |= {"state": {"terminated": ended}, "started": False}
        await self._write(pod, down)
        await asyncio.sleep(restart_after)
        up = running(pod, address, ready=True, restarts=restarts)
        for status in up["containerStatuses"]:
            status["lastState"] = {"terminated": ended}
        await self._write(pod, up)

    async def _report(self, name: str, status: str, reason: str, message: str) -> None:
        """Set the node's Ready condition, and with it that of its pods."""
        said = condition("Ready", status, reason=reason, message=message)
        await self._api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [said]}}, MERGE)
        there = await self._api.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")
        for pod in there["items"]:
            if "podIP" in pod["status"]:
                up = running(pod, pod["status"]["podIP"], ready=status == "True", restarts=restarts_of(pod))
                await self._write(pod, {"conditions": up["conditions"]})
            if (known := self._pods.get(pod["metadata"]["uid"])) is not None:
                self._saw_pod("MODIFIED", known)

    async def _add_node(self, node: Manifest) -> None:
        await self._api.call("POST", "/api/v1/nodes", node)
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        # The admission plugin TaintNodesByCondition taints every node at its creation.
        await self._api.call("PATCH", path, {"spec": {"taints": None}}, MERGE)
        await self._api.call("PATCH", f"{path}/status", {"status": node["status"]}, MERGE)

    async def _write(self, pod: Manifest, status: Manifest) -> None:
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        answer = await self._api.call("PATCH", f"{path_of(pod)}/status", body, MERGE)
        if answer.get("kind") == "Status" and int(answer.get("code", 0)) >= 429:
            raise OSError(f"the API server does not take a pod's status: {answer.get('message')}")

    def _address(self) -> str:
        number = next(self._addresses)
        return f"10.{200 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


@contextlib.contextmanager
def fake_kubelet(
    server: ApiServer,
    nodes: int = 3,
    slots: int = 110,
    *,
    allocatable: Mapping[str, int] | None = None,
    labels: Callable[[int], Mapping[str, str]] = lambda _: {},
    starts: Seconds = lambda _: 0.05,
    ends: Seconds = lambda _: 0.05,
) -> Iterator[FakeKubelet]:
    """Nodes `node-1` to `node-N` (InternalIP 127.0.1.N) of `slots` pods each, and `allocatable` extended resources;
    `labels` gives more labels for the node of an index. The nodes are deleted with the block."""
    kubelet = FakeKubelet(server, starts=starts, ends=ends)
    made = [node_of(index, slots, allocatable or {}, labels(index)) for index in range(1, nodes + 1)]
    with kubelet.alive(made):
        yield kubelet
    for node in made:
        server.request("DELETE", f"/api/v1/nodes/{node['metadata']['name']}")
