"""A small Kubernetes API over real HTTP, for fast tests of the operator's calls: objects, watches, faults on command.

It imitates what the operator uses and no more: discovery, get, list with selectors, create, update, server-side apply
as a merge, status, delete with preconditions, garbage collection by owner, watch. Behaviour that only the real server
has (schemas, field ownership, RBAC) is tested with `apiserver.py`.
"""

import asyncio
import copy
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ryzanstein_operator.cluster.resources import ALL, Resource

Manifest = dict[str, Any]
Fault = Callable[[web.Request], web.Response | None]
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Call:
    method: str
    path: str

    @property
    def writes(self) -> bool:
        return self.method != "GET"


@dataclass
class _Watch:
    resource: Resource
    query: dict[str, str]
    namespace: str
    queue: "asyncio.Queue[Manifest]" = field(default_factory=asyncio.Queue)


class FakeApi:
    """Start with `start()`; use from any thread but its own."""

    def __init__(self, directory: Path) -> None:
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.kinds: tuple[Resource, ...] = ALL
        self.frozen = False
        """Watches stand and show nothing, as after a connection has silently died."""
        self.url = ""
        self._directory = directory
        self._objects: dict[str, dict[tuple[str, str], Manifest]] = {resource.kind: {} for resource in ALL}
        self._versions = itertools.count(1)
        self._version = 0
        self._watches: list[_Watch] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-api", daemon=True)

    # --- for the test ----------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(WAIT_SECONDS)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    @property
    def kubeconfig(self) -> Path:
        path = self._directory / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "fake-token"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config))
        return path

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as a user would have; gives it as stored."""
        stored: Manifest = self._call(lambda: self._store(_resource(manifest), copy.deepcopy(manifest)))
        return stored

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        found: Manifest | None = self._call(lambda: copy.deepcopy(self._objects[kind].get((namespace, name))))
        return found

    def all(self, kind: str) -> list[Manifest]:
        found: list[Manifest] = self._call(lambda: copy.deepcopy(list(self._objects[kind].values())))
        return found

    def delete(self, kind: str, namespace: str, name: str, *, unseen: bool = False) -> None:
        """Delete, with everything it owns; `unseen` keeps it from the watches, as while they were broken."""
        self._call(lambda: self._remove(kind, (namespace, name), unseen))

    def break_watches(self) -> None:
        """Tell every watch that its version is too old: the watcher must list again."""
        gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}

        def tell() -> None:
            for watch in self._watches:
                watch.queue.put_nowait(gone)

        self._call(tell)

    def writes(self, *, leases: bool = False) -> list[Call]:
        """The writes so far, the Lease's renewals left out unless asked for."""
        return [call for call in list(self.calls) if call.writes and (leases or "/leases" not in call.path)]

    def _call(self, do: Callable[[], Any]) -> Any:
        async def within() -> Any:
            return do()

        return asyncio.run_coroutine_threadsafe(within(), self._loop).result(WAIT_SECONDS)

    # --- HTTP --------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        streams = asyncio.all_tasks() - {asyncio.current_task()}
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(Call(request.method, request.path))
        for fault in list(self.faults):
            if (answer := fault(request)) is not None:
                return answer
        parts = [part for part in request.path.split("/") if part]
        version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        if not rest:
            return self._discover(parts)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        for resource in self.kinds:
            if resource.api_version == version and resource.plural == rest[0]:
                return await self._dispatch(request, resource, namespace, rest[1:])
        return _status(404, "the server could not find the requested resource")

    async def _dispatch(
        self, request: web.Request, resource: Resource, namespace: str, rest: list[str]
    ) -> web.StreamResponse:
        if request.method == "GET" and not rest:
            if request.query.get("watch") == "true":
                return await self._watch(request, resource, namespace)
            return self._list(resource, namespace, dict(request.query))
        body = await request.json() if request.can_read_body else {}
        if request.method == "POST":
            return self._write(resource, namespace, body["metadata"]["name"], body, must_be_new=True)
        place = (namespace, rest[0])
        known = self._objects[resource.kind].get(place)
        if request.method == "PATCH":
            version = body.get("metadata", {}).pop("resourceVersion", None)
            if version is not None and (known is None or known["metadata"]["resourceVersion"] != version):
                return _status(409, "the object has been modified")
            return self._write(resource, *place, body, subresource="/".join(rest[1:]))
        if known is None:
            return _status(404, f'{resource.plural} "{rest[0]}" not found')
        if request.method == "PUT":
            if body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
                return _status(409, "the object has been modified")
            return self._write(resource, *place, body)
        if request.method == "DELETE":
            if body.get("preconditions", {}).get("uid") not in (None, known["metadata"]["uid"]):
                return _status(409, "the UID in the precondition does not match")
            self._remove(resource.kind, place, unseen=False)
        return web.json_response(known)

    def _discover(self, parts: list[str]) -> web.Response:
        groups = sorted({resource.group for resource in self.kinds if resource.group})
        if parts == ["api"]:
            return web.json_response({"versions": ["v1"]})
        if parts == ["apis"]:
            versions = {r.group: {"groupVersion": r.api_version, "version": r.version} for r in self.kinds}
            found = [{"name": g, "versions": [versions[g]], "preferredVersion": versions[g]} for g in groups]
            return web.json_response({"groups": found})
        api_version = "v1" if parts[0] == "api" else "/".join(parts[1:])
        resources = [_discovered(r) for r in self.kinds if r.api_version == api_version]
        resources += _BACKBONE if api_version == "v1" else []
        if not resources:
            return _status(404, "404 page not found")
        return web.json_response({"groupVersion": api_version, "resources": resources})

    def _list(self, resource: Resource, namespace: str, query: dict[str, str]) -> web.Response:
        items = [o for o in self._objects[resource.kind].values() if _selected(o, namespace, query)]
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "0"))
        metadata = {"resourceVersion": str(self._version)}
        if limit and start + limit < len(items):
            metadata["continue"] = str(start + limit)
        page = items[start : start + limit] if limit else items
        bare = [{key: value for key, value in o.items() if key not in ("apiVersion", "kind")} for o in page]
        head = {"apiVersion": resource.api_version, "kind": f"{resource.kind}List"}
        return web.json_response(head | {"metadata": metadata, "items": bare})

    async def _watch(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        watch = _Watch(resource, dict(request.query), namespace)
        since = int(request.query.get("resourceVersion", "0"))
        for known in self._objects[resource.kind].values():
            if int(known["metadata"]["resourceVersion"]) > since and _selected(known, namespace, watch.query):
                watch.queue.put_nowait({"type": "MODIFIED", "object": known})
        self._watches.append(watch)
        try:
            while True:
                event = await watch.queue.get()
                if not self.frozen:
                    await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            return response
        finally:
            self._watches.remove(watch)

    # --- objects -----------------------------------------------------------------------------------------

    def _write(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Manifest,
        *,
        subresource: str = "",
        must_be_new: bool = False,
    ) -> web.Response:
        known = self._objects[resource.kind].get((namespace, name))
        uid = body.get("metadata", {}).get("uid")
        if uid and (known is None or known["metadata"]["uid"] != uid):
            return _status(409, "uid mismatch")
        if must_be_new and known is not None:
            return _status(409, f'{resource.plural} "{name}" already exists', "AlreadyExists")
        if subresource == "status":
            if known is None:
                return _status(404, f'{resource.plural} "{name}" not found')
            body = {"metadata": {}, "status": body["status"]}
        base = {"apiVersion": resource.api_version, "kind": resource.kind} | copy.deepcopy(known or {})
        merged = base | {key: value for key, value in body.items() if key != "metadata"}
        merged["metadata"] = (known or {}).get("metadata", {}) | body.get("metadata", {})
        merged["metadata"] |= {"namespace": namespace, "name": name} if namespace else {"name": name}
        return web.json_response(self._store(resource, merged))

    def _store(self, resource: Resource, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        place = (metadata.get("namespace", ""), metadata["name"])
        known = self._objects[resource.kind].get(place)
        if known is not None and _same(known, manifest):
            return known  # as the real server: a write that changes nothing makes no new version
        self._version = next(self._versions)
        stamps: Manifest = {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
        if known is not None:
            stamps = {key: known["metadata"][key] for key in stamps}
            stamps["generation"] += known.get("spec") != manifest.get("spec")
        manifest["metadata"] = metadata | stamps | {"resourceVersion": str(self._version)}
        self._objects[resource.kind][place] = manifest
        self._tell("MODIFIED" if known else "ADDED", resource, manifest)
        return copy.deepcopy(manifest)

    def _remove(self, kind: str, place: tuple[str, str], unseen: bool) -> None:
        manifest = self._objects[kind].pop(place, None)
        if manifest is None:
            return
        self._version = next(self._versions)
        if not unseen:
            last = copy.deepcopy(manifest)
            last["metadata"]["resourceVersion"] = str(self._version)
            self._tell("DELETED", _resource(manifest), last)
        for other, objects in self._objects.items():
            for below, owned in list(objects.items()):
                owners = [owner["uid"] for owner in owned["metadata"].get("ownerReferences", ())]
                if manifest["metadata"]["uid"] in owners:
                    self._remove(other, below, unseen)

    def _tell(self, kind: str, resource: Resource, manifest: Manifest) -> None:
        for watch in self._watches:
            if watch.resource == resource and _selected(manifest, watch.namespace, watch.query):
                watch.queue.put_nowait({"type": kind, "object": copy.deepcopy(manifest)})


# kopf waits until it has seen that these exist; with scanning and posting off it reads none of them.
_BACKBONE = [
    {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": False, "verbs": ["list", "watch"]}
    for plural, kind in (("namespaces", "Namespace"), ("events", "Event"))
]


def _discovered(resource: Resource) -> Manifest:
    return {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "kind": resource.kind,
        "namespaced": not resource.cluster_scoped,
        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
    }


def _resource(manifest: Manifest) -> Resource:
    return next(r for r in ALL if (r.api_version, r.kind) == (manifest["apiVersion"], manifest["kind"]))


def _same(one: Manifest, other: Manifest) -> bool:
    server_set = ("uid", "creationTimestamp", "generation", "resourceVersion")

    def bare(manifest: Manifest) -> Manifest:
        metadata = {key: value for key, value in manifest["metadata"].items() if key not in server_set}
        return manifest | {"metadata": metadata}

    return bare(one) == bare(other)


def _selected(manifest: Manifest, namespace: str, query: dict[str, str]) -> bool:
    metadata = manifest["metadata"]
    labels, fields = metadata.get("labels", {}), query.get("fieldSelector", "")
    in_place = not namespace or metadata.get("namespace") == namespace
    labelled = all(_labelled(labels, part) for part in query.get("labelSelector", "").split(",") if part)
    place, _, value = fields.partition("=")
    held: Any = manifest
    for step in place.split(".") if fields else ():
        held = held.get(step, {})
    return in_place and labelled and (not fields or held == value)


def _labelled(labels: dict[str, str], part: str) -> bool:
    key, equals, value = part.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _status(code: int, message: str, reason: str = "", **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "message": message, "reason": reason}
    return web.json_response(body, status=code, headers=headers)


def refuse(method: str, path_part: str, code: int, message: str, *, times: int = 1_000_000, **headers: str) -> Fault:
    """A fault: answer the first `times` calls of `method` on paths with `path_part` with `code` (0: hang up)."""
    left = itertools.count(times, -1)

    def fault(request: web.Request) -> web.Response | None:
        if request.method != method or path_part not in request.path or next(left) <= 0:
            return None
        if code == 0:
            assert request.transport is not None
            request.transport.abort()
        return _status(code or 500, message, **headers)

    return fault


def wait_until(holds: Callable[[], object], seconds: float = 10.0, what: str = "the condition") -> None:
    """Wait for a promise with a deadline; for state that only polling can see."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


@pytest.fixture
def fake_api(tmp_path: Path) -> Iterator[FakeApi]:
    """A fresh fake API server."""
    api = FakeApi(tmp_path)
    api.start()
    yield api
    api.stop()
