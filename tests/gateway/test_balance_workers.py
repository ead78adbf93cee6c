"""PrefixAware with real workers: what the gateway takes for a cached beginning is what their engines find cached."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gateway_world import NAMESPACE
from kubewatch import CONFIG_MAPS
from local_cluster import MODEL, LocalCluster, local_cluster
from ryzanstein_worker.contract import (
    METRICS,
    PREFIX_CACHE_HITS,
    PREFIX_CACHE_QUERIES,
    ROUTES_CONFIG_MAP,
    ROUTES_KEY,
)

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

TURNS = 4


async def put_policy(cluster: LocalCluster, policy: str) -> None:
    """The route with another policy, known to the gateway."""
    row = {"model": MODEL, "namespace": NAMESPACE, "service": f"{MODEL}-workers", "port": cluster.port}
    row |= {"healthPort": cluster.health_port, "policy": policy}
    metadata = {"name": ROUTES_CONFIG_MAP, "namespace": "ryzanstein"}
    text = json.dumps({"version": 1, "models": [row]})
    await cluster.gateway.kube.put(CONFIG_MAPS, {"metadata": metadata, "data": {ROUTES_KEY: text}})
    chosen = f'ryzanstein_gateway_routing_choices_total{{model="{MODEL}",policy="{policy}"'
    async with asyncio.timeout(60), cluster.gateway.client() as client:
        while not any(line.startswith(chosen) for line in await cluster.gateway.metrics()):
            await client.post("/v1/completions", json={"model": MODEL, "prompt": "a", "max_tokens": 1})


async def cached(cluster: LocalCluster) -> tuple[float, float]:
    """Prompt tokens found in the workers' prefix caches, and looked up."""
    totals = {PREFIX_CACHE_HITS: 0.0, PREFIX_CACHE_QUERIES: 0.0}
    async with httpx.AsyncClient(timeout=30) as client:
        for worker in cluster.workers:
            text = (await client.get(f"http://{worker.host}:{worker.health_port}{METRICS}")).text
            for name in totals:
                values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{name}_total{{")]
                totals[name] += sum(float(value) for value in values)
    return totals[PREFIX_CACHE_HITS], totals[PREFIX_CACHE_QUERIES]


async def converse(cluster: LocalCluster, policy: str) -> float:
    """Conversations under a policy: the share of their prompts' tokens that the workers had cached."""
    await put_policy(cluster, policy)
    hits, queries = await cached(cluster)
    async with cluster.gateway.client() as client:
        for name in ("Anna", "Berta", "Clara", "Dora"):
            said = f"{policy} and {name} " * 25
            for turn in range(TURNS):
                said += f"{name} asked the {turn}th time about rain. " * 5
                answer = await client.post("/v1/completions", json={"model": MODEL, "prompt": said, "max_tokens": 1})
                assert answer.status_code == 200, answer.text
    after = await cached(cluster)
    return (after[0] - hits) / (after[1] - queries)


async def test_workers_find_more_cached_when_conversations_stay(tmp_path: Path) -> None:
    async with local_cluster(tmp_path, workers=3, RYZANSTEIN_GATEWAY_PROCESSES="1") as cluster:
        turns, aware = [await converse(cluster, policy) for policy in ("RoundRobin", "PrefixAware")]
    print(f"cached prompt tokens: {turns:.0%} RoundRobin, {aware:.0%} PrefixAware")
    assert aware > 0.5
    assert aware > 2 * turns
