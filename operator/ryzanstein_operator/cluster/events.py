"""Kubernetes Events about a service, counted instead of repeated. Knows the Event's shape, none of its reasons."""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import MERGE, ApiError, Cluster
from ryzanstein_operator.cluster.recent import Recent
from ryzanstein_operator.cluster.resources import EVENTS
from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_worker import contract

logger = logging.getLogger(__name__)

REMEMBERED: Final = 1024
"""Events that may still be counted up. An older one that comes again starts anew."""


@dataclass
class _Sent:
    name: str
    count: int


class Recorder:
    """Posts events.k8s.io/v1 Events; the same type, reason and message about the same object only raises its count."""

    def __init__(self, cluster: Cluster, instance: str) -> None:
        self.recent = Recent()
        self._cluster, self._instance = cluster, instance
        self._sent: OrderedDict[tuple[str, str, str, str], _Sent] = OrderedDict()

    async def emit(self, event: EmitEvent, about: Manifest) -> None:
        """Post `event` about the live object `about`. Never raises: an Event that is lost breaks nothing."""
        self.recent.note(about["metadata"]["uid"], event)
        try:
            await self._emit(event, about)
        except ApiError as error:
            logger.warning("Could not post an Event", extra={"reason": event.reason, "error": str(error)})

    async def _emit(self, event: EmitEvent, about: Manifest) -> None:
        key = (about["metadata"]["uid"], event.type, event.reason, event.message)
        sent = self._sent.get(key)
        if sent is not None and await self._count_up(sent, about["metadata"]["namespace"]):
            self._sent.move_to_end(key)
            return
        body = self._body(event, about)
        await self._cluster.call("POST", EVENTS.path(about["metadata"]["namespace"]), body)
        self._sent[key] = _Sent(body["metadata"]["name"], 1)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    async def _count_up(self, sent: _Sent, namespace: str) -> bool:
        """False if the Event has expired meanwhile (an hour, by default)."""
        series = {"count": sent.count + 1, "lastObservedTime": _now()}
        try:
            await self._cluster.call("PATCH", EVENTS.path(namespace, sent.name), {"series": series}, content_type=MERGE)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        sent.count += 1
        return True

    def _body(self, event: EmitEvent, about: Manifest) -> Manifest:
        metadata = about["metadata"]
        regarding = {"apiVersion": about["apiVersion"], "kind": about["kind"]}
        regarding |= {"namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": metadata["namespace"], "name": f"{metadata['name']}.{time.time_ns():x}"},
            "eventTime": _now(),
            "reportingController": f"{contract.API_GROUP}/operator",
            "reportingInstance": self._instance[:128],
            "action": "Reconcile",
            "type": event.type,
            "reason": event.reason[:128],
            "note": event.message[:1000],
            "regarding": regarding,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
