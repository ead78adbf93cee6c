"""Where the time goes from a load, or a first request, to the first token of a replica that was not there before."""

import asyncio
import datetime
import itertools
import json
import time
from dataclasses import dataclass, fields

import aiohttp

from chaos import Ask, Seen, stream
from cluster_view import Release
from recording import Recording
from stories import Gateway, until

WAKE_SECONDS = 600
TOLD_SECONDS = 60
"""The watches may tell of a pod later than the gateway learns of it."""


@dataclass(frozen=True)
class Split:
    """Seconds. decide: until the size is written; schedule: until the pod has a node; start: until its worker's
    container runs; load: until it is ready, the model in memory; first_token: until a client has one of it."""

    decide: float
    schedule: float
    start: float
    load: float
    first_token: float

    @property
    def total(self) -> float:
        return self.decide + self.schedule + self.start + self.load + self.first_token

    def __str__(self) -> str:
        parts = ", ".join(f"{one.name.replace('_', ' ')} {getattr(self, one.name):.1f}" for one in fields(self))
        return f"{self.total:.1f} s to the first token ({parts})"


def wake(gateway: Gateway, model: str, record: Recording) -> Split:
    """Ask a service that has no replica, and wait for the answer. Raises StreamError and what aiohttp raises."""
    since = time.monotonic()
    at = asyncio.run(_ask(gateway, model))
    split: Split = until(TOLD_SECONDS, "the watches tell of the replica", lambda: _of_only(record, since, at))
    return split


def _of_only(record: Recording, since: float, first_token: float) -> Split | None:
    made = record.made_since(since)
    assert len(made) <= 1, f"one request woke {made}"
    return _split(record, since, first_token, made[0]) if made else None


async def _ask(gateway: Gateway, model: str) -> float:
    """When the first token came; the stream must come to its proper end besides."""
    seen = Seen()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAKE_SECONDS)) as session:
        begun = time.monotonic()
        await stream(session, gateway, model, Ask("Return the name of", None), seen)
    return begun + seen.longest_gap  # nothing else in it takes as long


def growth(release: Release, record: Recording, since: float) -> Split | None:
    """What passed until a replica that was made after `since` answered; None as long as none has."""
    found = ((first_token_of(release, pod, since), pod) for pod in record.made_since(since))
    answered = [(at, pod) for at, pod in found if at is not None]
    return _split(record, since, *min(answered)) if answered else None


def first_token_of(release: Release, pod: str, since: float) -> float | None:
    """When a client got the first token of a pod made after `since`, as the gateways' access logs say."""
    span = f"--since={int(time.monotonic() - since) + 60}s"
    of_gateways = ("-l", "app.kubernetes.io/component=gateway", "--tail=-1", span)
    lines = release.kubectl("logs", *of_gateways).splitlines()
    told = [json.loads(line) for line in lines if f'"endpoint":"{pod}"' in line]
    firsts = [
        datetime.datetime.fromisoformat(one["time"]).timestamp() + (one["first_byte_ms"] - one["duration_ms"]) / 1000
        for one in told
        if "first_byte_ms" in one
    ]
    return min(firsts) - time.time() + time.monotonic() if firsts else None


def _split(record: Recording, since: float, first_token: float, pod: str) -> Split | None:
    """None as long as the watches have not told of every step: the two are not told at the same time."""
    decided, steps = record.grown(since), record.steps[pod]
    if decided is None or "ready" not in steps:
        return None
    ready = min(steps["ready"], first_token)  # on a busy machine the watch tells it later than the gateway learns it
    moments = [since, decided, steps["scheduled"], steps["started"], ready, first_token]
    return Split(*(later - earlier for earlier, later in itertools.pairwise(moments)))
