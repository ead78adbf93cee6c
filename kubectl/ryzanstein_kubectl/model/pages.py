"""What a worker says of itself on its health port: the status page and the metrics, read into values.

Lenient: a worker of an older or a newer version may say less or more.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ryzanstein_worker import contract


@dataclass(frozen=True)
class Rank:
    """One rank of a replica: its place, what it does (loading, idle, step), seconds since its last sign of life."""

    rank: int
    node_rank: int
    state: str
    age_seconds: float


@dataclass(frozen=True)
class Load:
    """What one replica has to do. kv_cache_usage is 0..1."""

    running: int
    waiting: int
    kv_cache_usage: float


@dataclass(frozen=True)
class StatusPage:
    """A worker's HEALTH_STATUS."""

    phase: str
    reason: str
    epoch: str
    load: Load
    ranks: tuple[Rank, ...] = ()
    accelerator_fault: str = ""


@dataclass(frozen=True)
class Counters:
    """A worker's METRICS, as far as `top` looks. first_token: (upper bound in seconds, count up to it), ascending."""

    load: Load
    generation_tokens: float
    first_token: tuple[tuple[float, float], ...]


def status_page(text: str) -> StatusPage:
    """Reads the page. Raises ValueError for what is no such page."""
    page = json.loads(text)
    if not isinstance(page, dict):
        raise ValueError("the status page is no object")
    load = Load(int(page.get("running", 0)), int(page.get("waiting", 0)), float(page.get("kv_cache_usage", 0.0)))
    return StatusPage(
        phase=str(page.get("phase", "")),
        reason=str(page.get("reason", "")),
        epoch=str(page.get("epoch", "")),
        load=load,
        ranks=tuple(_rank(entry) for entry in page.get("ranks") or ()),
        accelerator_fault=str(page.get("accelerator_fault", "")),
    )


def _rank(entry: Mapping[str, Any]) -> Rank:
    age = float(entry.get("age_seconds", 0.0))
    return Rank(int(entry["rank"]), int(entry.get("node_rank", 0)), str(entry.get("state", "")), age)


def counters(text: str) -> Counters:
    """Reads Prometheus' text format. Raises ValueError for what is none."""
    values: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{contract.TIME_TO_FIRST_TOKEN}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            else:
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    load = Load(
        int(values.get(contract.NUM_REQUESTS_RUNNING, 0)),
        int(values.get(contract.NUM_REQUESTS_WAITING, 0)),
        values.get(contract.KV_CACHE_USAGE_PERC, 0.0),
    )
    tokens = values.get(f"{contract.GENERATION_TOKENS}_total", 0.0)
    return Counters(load, tokens, tuple(sorted(buckets.items())))


def median(first: Iterable[tuple[float, float]], last: Iterable[tuple[float, float]]) -> float | None:
    """The median of what a histogram took between two reads of it, in its unit; None where it took nothing.

    Linear within a bucket, as Prometheus' histogram_quantile; in the open last bucket its lower bound.
    """
    before = dict(first)
    counts = [(bound, count - before.get(bound, 0.0)) for bound, count in last]
    total = counts[-1][1] if counts else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for bound, count in counts:
        if count >= total / 2:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (total / 2 - below) / (count - below)
        lower, below = bound, count
    return lower
