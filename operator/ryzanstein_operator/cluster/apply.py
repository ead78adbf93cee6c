"""Carries out a Plan and says what came of it. Chooses nothing.

Before each write it asks whether this process still leads, and each write names the UID of the object it was decided
on: neither a process that was frozen nor a stale picture can touch an object that has taken another's place.
"""

import asyncio
import base64
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import Cache
from ryzanstein_operator.cluster.client import APPLY, MERGE, ApiError, Cluster
from ryzanstein_operator.cluster.events import Recorder
from ryzanstein_operator.cluster.resources import PODS, path_of, resource_of
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.plan import (
    Action,
    Apply,
    CreateKey,
    Delete,
    EmitEvent,
    PatchStatus,
    PatchTaints,
    Plan,
)
from ryzanstein_operator.desired.groups import KEY
from ryzanstein_operator.telemetry import Metrics
from ryzanstein_worker import contract

logger = logging.getLogger(__name__)

_KEY_BYTES: Final = 32
_QUERY: Final = {"fieldManager": contract.FIELD_MANAGER, "force": "true"}


class NotLeadingError(Exception):
    """The Lease is no longer held: nothing more may be written."""


@dataclass
class Outcome:
    """What came of a Plan.

    refused: writes that will not be taken until someone changes something (400, 403, 413, 422), with the API
        server's sentence; the next visit puts it into the status.
    again: something was in the way that passes by itself, or the picture was stale; visit again soon.
    """

    refused: dict[Ref, str] = field(default_factory=dict)
    again: str = ""


class Executor:
    """Turns actions into calls."""

    def __init__(
        self, cluster: Cluster, cache: Cache, recorder: Recorder, metrics: Metrics, leading: Callable[[], bool]
    ) -> None:
        self._cluster, self._cache, self._recorder = cluster, cache, recorder
        self._metrics, self._leading = metrics, leading

    async def execute(self, plan: Plan, about: Manifest | None) -> Outcome:
        """Try every action in order; one that fails keeps only those from being tried that say so. Raises
        NotLeadingError.

        about: the live object that the Plan's Events speak of.
        """
        outcome = Outcome()
        failed: set[Ref] = set()
        for action in plan.actions:
            if not self._leading():
                raise NotLeadingError
            if isinstance(action, Apply) and action.after in failed:
                failed.add(action.ref)
                continue
            try:
                await self._do(action, about)
            except ApiError as error:
                self._failed(action, error, outcome)
                if not isinstance(action, EmitEvent):
                    failed.add(action.ref)
            # A long plan must not keep the loop's other tasks, the Lease first of all, from their turn.
            await asyncio.sleep(0)
        return outcome

    async def _do(self, action: Action, about: Manifest | None) -> None:
        match action:
            case Apply(manifest=manifest, uid=uid):
                live = await self._write("apply", action.ref, "PATCH", path_of(action.ref), _with_uid(manifest, uid))
                self._cache.put(live)
            case CreateKey():
                await self._create_key(action)
            case Delete():
                await self._delete(action)
            case PatchTaints():
                await self._taint(action)
            case PatchStatus():
                await self._patch_status(action)
            case EmitEvent() if about is not None:
                await self._recorder.emit(action, about)
                self._metrics.writes.labels("Event", "emit").inc()
            case EmitEvent():
                logger.warning("An Event about nothing is dropped", extra={"reason": action.reason})

    async def _write(self, verb: str, ref: Ref, method: str, path: str, body: Manifest) -> Manifest:
        live = await self._cluster.call(method, path, body, query=_QUERY, content_type=APPLY)
        self._metrics.writes.labels(ref.kind, verb).inc()
        return live

    async def _patch_status(self, action: PatchStatus) -> None:
        ref, version = action.ref, action.resource_version
        metadata = {"namespace": ref.namespace, "name": ref.name} | ({"resourceVersion": version} if version else {})
        body = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": metadata, "status": action.status}
        live = await self._write("status", ref, "PATCH", f"{path_of(ref)}/status", _with_uid(body, action.uid))
        # Of another spec than the one decided on, it must come through the watch, which tells what has changed.
        if live["metadata"].get("generation", 0) == action.status.get("observedGeneration"):
            self._cache.put(live)

    async def _taint(self, action: PatchTaints) -> None:
        # Not server-side apply: a node's taints are one atomic list, of which only one key is ours.
        body = {
            "metadata": {"resourceVersion": action.resource_version},
            "spec": {"taints": list(action.taints)},
        }
        live = await self._cluster.call("PATCH", path_of(action.ref), body, content_type=MERGE)
        self._metrics.writes.labels(action.ref.kind, "taint").inc()
        self._cache.put(live)

    async def _create_key(self, action: CreateKey) -> None:
        value = base64.b64encode(secrets.token_hex(_KEY_BYTES).encode()).decode()
        path = resource_of(action.ref).path(action.ref.namespace)
        query = {"fieldManager": contract.FIELD_MANAGER}
        try:
            await self._cluster.call("POST", path, action.manifest | {"data": {KEY: value}}, query=query)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return
        self._metrics.writes.labels(action.ref.kind, "create").inc()

    async def _delete(self, action: Delete) -> None:
        policy = "Foreground" if action.foreground else "Background"
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        try:
            body |= {"preconditions": {"uid": action.uid}}
            answer = await self._cluster.call("DELETE", path_of(action.ref), body)
        except ApiError as error:
            if error.status != 404:
                raise
            return
        if "deletionTimestamp" in answer.get("metadata", {}):  # it goes by and by; else it is gone
            self._cache.renew(answer)
        self._metrics.writes.labels(action.ref.kind, "delete").inc()
        if action.ref.kind == PODS.kind:  # for no other reason is a pod deleted
            self._metrics.failover_deletions.inc()

    @staticmethod
    def _failed(action: Action, error: ApiError, outcome: Outcome) -> None:
        extra: Mapping[str, object] = {"action": str(action), "error": str(error)}
        if error.transient or error.conflict or error.status == 404:
            logger.info("An action could not be carried out now; visiting again", extra=extra)
            outcome.again = str(error)
            return
        logger.warning("The API server refused an action", extra=extra)
        if isinstance(action, (Apply, CreateKey, Delete, PatchTaints)):
            outcome.refused[action.ref] = error.sentence
        else:
            outcome.again = str(error)


def _with_uid(manifest: Manifest, uid: str | None) -> Manifest:
    if uid is None:
        return manifest
    return manifest | {"metadata": manifest["metadata"] | {"uid": uid}}
