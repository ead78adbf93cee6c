"""What is measured, one function a figure. Knows the order of things; prints nothing."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.operator import measure, world
from bench.operator.client import Api, all_of

from operator_process import OperatorProcess
from ryzanstein_operator.cluster.resources import SERVICES

Manifest = dict[str, Any]
POLL_SECONDS: Final = 0.5
LIMIT_SECONDS: Final = 1800.0
REST_SECONDS: Final = 5.0
"""No write for so long is called rest."""


@dataclass(frozen=True)
class Convergence:
    """From the first create until the last object says that all its replicas are ready.

    cpu: seconds of the processor by program over that time; writes: what the API server took, by resource.
    """

    seconds: float
    cpu: dict[str, float]
    writes: dict[str, int]


@dataclass(frozen=True)
class Start:
    """A start of the operator over a world that is as it should be: seconds until it rests again, processor seconds,
    bytes of memory at its peak; then the same for one resync. `writes` of both must be 0."""

    seconds: float
    cpu: float
    peak: int
    resync_cpu: float
    writes: int


@dataclass
class Operated:
    """All figures of the operator."""

    convergence: Convergence
    writes: dict[str, int]
    visits: measure.Visits
    peak: int
    changes: list[float] = field(default_factory=list)
    quiet_writes: dict[str, int] = field(default_factory=dict)
    quiet_own_writes: int = 0
    quiet_cpu: float = 0.0


async def converge(
    api: Api, path: str, bodies: Sequence[Manifest], done: tuple[str, str], pids: dict[str, int]
) -> Convergence:
    """Create `bodies` at `path`, then wait until each has the value of `done` (column, value) in kubectl's table.
    Raises TimeoutError after half an hour."""
    before, cpu = measure.server_writes(await api.metrics()), _cpu(pids)
    started = time.monotonic()
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(_all_done(api, path, len(bodies), done))
        group.create_task(all_of(_creator(api, path, body) for body in bodies))
    seconds = time.monotonic() - started
    used = {name: total - cpu[name] for name, total in _cpu(pids).items()}
    return Convergence(seconds, used, _grown(before, measure.server_writes(await api.metrics())))


async def _all_done(api: Api, path: str, count: int, done: tuple[str, str]) -> None:
    column, value = done
    well: set[str] = set()
    async for name, cell in api.column(path, column):
        (well.add if cell == value else well.discard)(name)
        if len(well) == count:
            return


def _creator(api: Api, path: str, body: Manifest) -> Callable[[], Any]:
    return lambda: api.call("POST", path, body)


async def rest(api: Api, limit: float = LIMIT_SECONDS) -> float:
    """Wait until the API server has taken no write for a while. Gives the seconds until the last one. Raises
    TimeoutError after `limit` seconds."""
    started = last = time.monotonic()
    known: dict[str, int] = {}
    async with asyncio.timeout(limit):
        while time.monotonic() - last < REST_SECONDS:
            if (now := measure.server_writes(await api.metrics())) != known:
                known, last = now, time.monotonic()
            await asyncio.sleep(POLL_SECONDS)
    return last - started


async def single_change(api: Api, name: str, replicas: int) -> float:
    """Seconds from sending another number of replicas for one service until its Deployment says so."""
    watching = api.watch(world.DEPLOYMENTS, name)
    await anext(watching)  # the state as it is: the watch stands
    started = time.monotonic()
    changing = asyncio.create_task(
        api.call("PATCH", SERVICES.path(world.TEAM, name), {"spec": {"replicas": replicas}}, _MERGE)
    )
    async for state in watching:
        if state["spec"]["replicas"] == replicas:
            break
    seconds = time.monotonic() - started
    await changing
    await watching.aclose()  # type: ignore[attr-defined]  # a generator
    return seconds


_MERGE: Final = "application/merge-patch+json"


async def quiet(api: Api, seconds: float, operator: OperatorProcess, figures: Operated) -> None:
    """The writes that the API server takes within `seconds`, from anyone and from the operator, and the processor time
    of the operator, into `figures`."""
    before, own = measure.server_writes(await api.metrics()), operator.writes
    cpu = measure.cpu_seconds(operator.process.pid)
    await asyncio.sleep(seconds)
    figures.quiet_writes = _grown(before, measure.server_writes(await api.metrics()))
    figures.quiet_own_writes = operator.writes - own
    figures.quiet_cpu = measure.cpu_seconds(operator.process.pid) - cpu


async def restart(api: Api, operator: OperatorProcess, services: int, resync: float) -> Start:
    """A fresh operator's start, and its first resync."""
    pid, started = operator.process.pid, time.monotonic()
    await _visited(operator, services)
    seconds, cpu = time.monotonic() - started, measure.cpu_seconds(pid)
    await rest(api)
    peak = measure.memory_bytes(pid)[1]
    before, known = measure.cpu_seconds(pid), measure.Visits.of(operator.probe("/metrics")[1]).count
    await _visited(operator, known + services, resync + 120)
    writes = sum(measure.operator_writes(operator.probe("/metrics")[1]).values())
    return Start(seconds, cpu, peak, measure.cpu_seconds(pid) - before, writes)


async def _visited(operator: OperatorProcess, visits: int, limit: float = 300.0) -> None:
    async with asyncio.timeout(limit):
        while measure.Visits.of(operator.probe("/metrics")[1]).count < visits:
            await asyncio.sleep(POLL_SECONDS / 5)


def median_and_worst(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), max(values)


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {name: measure.cpu_seconds(pid) for name, pid in pids.items()}


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return dict(Counter(after) - Counter(before))
