"""The worker pods of a service as they change: a list, then a watch, and both anew when the watch breaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

from ryzanstein_kubectl.cluster.look import Scope
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_operator.cluster.resources import PODS

WATCH_SECONDS: Final = 300
PAUSE_SECONDS: Final = 1.0


async def watch_pods(session: Session, scope: Scope) -> AsyncIterator[dict[str, Manifest]]:
    """All pods by UID, at once and after each change. Raises ApiError for what will not pass by itself."""
    path, selector = PODS.path(scope.namespace), {"labelSelector": scope.worker_selector}
    while True:
        listed = await session.call("GET", path, query=selector)
        pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        yield dict(pods)
        since = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        limit = {"timeoutSeconds": str(WATCH_SECONDS)}
        try:
            async for line in session.lines(path, selector | since | limit, idle_seconds=WATCH_SECONDS + 30.0):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                uid = event["object"]["metadata"]["uid"]
                if event["type"] == "DELETED":
                    pods.pop(uid, None)
                else:
                    pods[uid] = event["object"]
                yield dict(pods)
        except ApiError as error:
            if not error.transient and error.status != 410:
                raise
        await asyncio.sleep(PAUSE_SECONDS)
