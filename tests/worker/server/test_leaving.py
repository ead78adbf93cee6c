"""Clients that leave: their work ends within a second and nothing of it stays, wherever it was at that moment."""

import asyncio
import json
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from worker_process import MODEL_NAME, WorkerProcess

ROUNDS = 8
"""Of forty leavers each, after a first one that warms up."""


def _value(text: str, name: str, label: str = "") -> float:
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*{label}[^}}]*}} (\S+)$", text, re.M))


async def _aborted(worker: WorkerProcess) -> float:
    return _value(await _metrics(worker), "ryzanstein_request_success_total", 'finished_reason="abort"')


async def _metrics(worker: WorkerProcess) -> str:
    async with httpx.AsyncClient(timeout=30) as client:
        return (await client.get(f"{worker.health}/metrics")).text


async def _load(worker: WorkerProcess) -> tuple[float, float, float]:
    """Running, waiting, share of blocks in use."""
    text = await _metrics(worker)
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    running, waiting, usage = (_value(text, f"ryzanstein_{name}") for name in names)
    return running, waiting, usage


async def _until_idle(worker: WorkerProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (load := await _load(worker)) != (0, 0, 0):
        assert time.monotonic() < deadline, load
        await asyncio.sleep(0.02)


async def _until_there(worker: WorkerProcess, choices: int) -> None:
    """So many run or wait. Whoever leaves before may never have been seen, and then is not counted either."""
    deadline = time.monotonic() + 30
    while sum((load := await _load(worker))[:2]) != choices:
        assert time.monotonic() < deadline, load
        await asyncio.sleep(0.02)


async def _until_aborted(worker: WorkerProcess, total: float) -> None:
    """Exactly so many, and no more later: the ranks may be idle a moment before the last is counted."""
    deadline = time.monotonic() + 10
    while (aborted := await _aborted(worker)) < total and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert aborted == total


async def _open(worker: WorkerProcess, fields: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(worker.api)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"model": MODEL_NAME, "prompt": "x", "max_tokens": 500, "ignore_eos": True} | fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (1, {"stream": True}),
        (1, {"stream": False}),
        (1, {"stream": False, "n": 4}),
        (1, {"stream": True, "n": 4}),
        (24, {"stream": False}),  # more than run at once: some are still queued
        (4, {"stream": True, "prompt": [5] * 11, "max_tokens": 501}),
    ],
)
async def test_a_client_that_leaves_gives_back_all_it_held(
    slow_worker: WorkerProcess, count: int, fields: dict[str, object]
) -> None:
    choices = fields.get("n", 1)
    assert isinstance(choices, int)
    await _until_idle(slow_worker, seconds=30)
    aborted = await _aborted(slow_worker)
    clients = [await _open(slow_worker, fields) for _ in range(count)]
    await _until_there(slow_worker, count * choices)
    for _, writer in clients:
        writer.transport.abort()
    # Within a second on an idle machine; served to its end it would take more than ten, and not count as aborted.
    await _until_idle(slow_worker, seconds=8)
    await _until_aborted(slow_worker, aborted + count * choices)


def _held(pid: int) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


def _no_more(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """No descriptor more, and no thread for each round of leavers. A pool of threads grows to its size when it is first
    busy and loses its idle ones after a while, so a few more or fewer threads are no leak.
    """
    return now[0] <= before[0] and now[1] < before[1] + ROUNDS


def _memory(pid: int) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _leave(worker: WorkerProcess, count: int) -> None:
    """As many clients, of every kind, that leave once all are there and the first of them is served."""
    kinds: list[dict[str, object]] = [
        {"stream": True},
        {"stream": False},
        {"stream": True, "n": 2},
        {"stream": False, "prompt": [7] * 200, "max_tokens": 300},
    ]
    clients = await asyncio.gather(*(_open(worker, kinds[n % 4]) for n in range(count)))
    await _until_there(worker, count + count // 4)  # those of n=2 count twice
    reader, _ = clients[0]
    await asyncio.wait_for(reader.readuntil(b"data:"), timeout=30)
    for _, writer in clients:
        writer.transport.abort()
    await _until_idle(worker, seconds=10)


async def test_hundreds_of_leavers_leave_nothing_behind(slow_worker: WorkerProcess) -> None:
    worker = slow_worker
    pids = (worker.process.pid, *worker.ranks())
    await _leave(worker, 40)
    held, memory = [_held(pid) for pid in pids], [_memory(pid) for pid in pids]
    aborted = await _aborted(worker)
    for _ in range(ROUNDS):
        await _leave(worker, 40)
    await _until_aborted(worker, aborted + ROUNDS * (40 + 10))
    deadline = time.monotonic() + 20
    while not all(_no_more(_held(pid), before) for pid, before in zip(pids, held, strict=True)):
        assert time.monotonic() < deadline, (held, [_held(pid) for pid in pids])
        await asyncio.sleep(0.05)
    grown = [now - before for now, before in zip(map(_memory, pids), memory, strict=True)]
    assert max(grown) < 16 << 20, grown
