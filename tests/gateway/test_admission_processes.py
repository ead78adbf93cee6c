"""A key's limits hold over all processes of a gateway, and what a killed one had counted is taken out."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway_process import MODEL, GatewayProcess, gateway_process
from gateway_world import NAMESPACE
from kubewatch import CONFIG_MAPS
from processes import until
from replica import event_stream
from ryzanstein_worker.contract import ROUTES_CONFIG_MAP, ROUTES_KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ASK: dict[str, Any] = {"model": "limited", "messages": []}
READY = "ryzanstein_gateway_processes_ready"


async def limit(gateway: GatewayProcess, **limits: int) -> None:
    """Put a limited model into the route table, beside the one that is there."""
    row = {"namespace": NAMESPACE, "service": f"{MODEL}-workers", "port": gateway.replicas[0].port}
    models = [row | {"model": MODEL}, row | {"model": "limited"} | limits]
    metadata = {"name": ROUTES_CONFIG_MAP, "namespace": "ryzanstein"}
    data = {ROUTES_KEY: json.dumps({"version": 1, "models": models})}
    await gateway.kube.put(CONFIG_MAPS, {"metadata": metadata, "data": data})


async def ask(gateway: GatewayProcess) -> int:
    """The status of one request over a connection of its own, so that any process may get it."""
    async with gateway.client(verify=False) as client:
        return (await client.post("/v1/chat/completions", json=ASK)).status_code


async def test_processes_share_what_they_count_and_a_killed_ones_is_taken_out(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, RYZANSTEIN_GATEWAY_PROCESSES="2") as gateway:
        await gateway.until_metric(READY, 2)
        await limit(gateway, requestsPerMinute=20, maxConcurrentRequests=3)
        answers: Counter[int] = Counter()
        began = time.monotonic()
        async with asyncio.timeout(40):
            while answers.total() < 44:
                status = await ask(gateway)
                if status != 404:  # this process knows of the model
                    answers[status] += 1
        # And one more each three seconds; and one that met a process which stood still with the counts in its hand.
        assert 20 <= answers[200] <= 21 + (time.monotonic() - began) / 3 < 40, answers
        assert answers[429] == 44 - answers[200]

        await limit(gateway, maxConcurrentRequests=3)
        await _until_only(gateway, 200)
        streams = [asyncio.create_task(_hold(gateway)) for _ in range(3)]
        await until(lambda: gateway.replicas[0].running == 3, 40, "all three are held")
        await _until_only(gateway, 429)
        for pid in gateway.members:
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*streams)
        await gateway.until_metric(READY, 2)
        await _until_only(gateway, 200)


async def _until_only(gateway: GatewayProcess, status: int) -> None:
    """Until so many requests in a row have this status that no process can have missed all of them by chance."""
    row = 0
    async with asyncio.timeout(40):
        while row < 16:
            try:
                row = row + 1 if await ask(gateway) == status else 0
            except httpx.TransportError:
                row = 0


async def _hold(gateway: GatewayProcess) -> None:
    """A stream that does not end by itself."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if not json.loads(await request.read()).get("stream"):
            return web.json_response(gateway.replicas[0].unary("limited"))
        response = await event_stream(request)
        await response.write(gateway.replicas[0].piece("limited", 0))
        await asyncio.Event().wait()
        return response

    gateway.replicas[0].answer = answer
    try:
        async with gateway.client(verify=False) as client:
            await client.post("/v1/chat/completions", json=ASK | {"stream": True})
    except httpx.TransportError:
        return
