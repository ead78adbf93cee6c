"""What the page is shown in tests: services as the operator's own code words them, behind a real gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from doorbell import KEY as OPERATOR_KEY
from doorbell import Ear, listening
from gateway_world import CLIENT_SECONDS, KEY, NAMESPACE, World, open_world
from ryzanstein_operator.overview import OperatorRow, Picture, encode
from ryzanstein_worker.contract import API_GROUP, API_VERSION


def before(seconds: float) -> str:
    """A time so long ago, as Kubernetes writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, reason: str = "AsWanted", message: str = "", ago: float = 300) -> dict[str, Any]:
    """One condition of a status."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": before(ago)}


HEALTHY = (condition("Ready", "True"), condition("Serving", "True", "ReplicasReady", "2 replicas answer."))


def picture(
    name: str, *conditions: dict[str, Any], events: Any = (), pods: Any = (), spec: Any = None, **status: Any
) -> Picture:
    """One InferenceService as an API server would give it."""
    manifest = {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": NAMESPACE, "generation": 1, "creationTimestamp": before(86_400)},
        "spec": {"model": {"uri": "demo://", "name": name}} | (spec or {}),
        "status": {"observedGeneration": 1, "conditions": list(conditions or HEALTHY)} | status,
    }
    return Picture(manifest, tuple(pods), tuple(events))


def pod(name: str, address: str, node: str) -> dict[str, Any]:
    """A worker's pod that is ready."""
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": name,
            "labels": {},
            "creationTimestamp": before(9000),
        },
        "spec": {"nodeName": node, "containers": [{"name": "worker"}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": before(8000)}],
            "containerStatuses": [{"name": "worker", "restartCount": 1, "ready": True, "state": {"running": {}}}],
        },
    }


def overview(*pictures: Picture) -> bytes:
    """The operator's answer."""
    now = datetime.now(UTC)
    row = OperatorRow("0.1.0", "operator-0", True, before(0))
    return encode(row, sorted(pictures, key=lambda one: str(one.service["metadata"]["name"])), len(pictures), now)


@dataclass
class PageWorld:
    """A gateway with an operator beside it."""

    world: World
    ear: Ear

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.world.gateway.port}/ui"

    async def state(self, key: str = "", status: int = 200) -> dict[str, Any]:
        """What the page is given."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        reply = await self.world.client.get("/ui/state", headers=headers)
        assert reply.status_code == status, reply.text
        found: dict[str, Any] = json.loads(reply.content)
        return found

    async def heard(self) -> None:
        """Wait until the page shows what the operator says: who looks first waits for it, but not for ever."""
        async with asyncio.timeout(CLIENT_SECONDS):
            while (await self.state(KEY))["operator_trouble"]:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def page_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> AsyncIterator[PageWorld]:
    """A gateway that knows an operator."""
    key = tmp_path / "demand-key"
    key.write_text(OPERATOR_KEY)
    async with listening() as ear:
        settings: dict[str, Any] = {"operator_url": f"http://127.0.0.1:{ear.port}", "operator_key_file": key}
        async with open_world(tmp_path, monkeypatch, **settings | changes) as world:
            yield PageWorld(world, ear)
