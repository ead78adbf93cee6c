"""Collects evidence of a loss on an event loop, and tells the culprit once better evidence has had its time."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from ryzanstein_worker.engine.verdict import Evidence, culprit, patience


class Inquest:
    """`on_verdict` is called once. `extra`: more seconds of patience, asked at each evidence."""

    def __init__(self, on_verdict: Callable[[Evidence], None], *, extra: Callable[[], float] = lambda: 0.0) -> None:
        self._on_verdict = on_verdict
        self._extra = extra
        self._evidence: list[Evidence] = []
        self._news = asyncio.Event()
        self._judging: asyncio.Task[None] | None = None

    def add(self, evidence: Evidence) -> None:
        self._evidence.append(evidence)
        self._news.set()
        if self._judging is None:
            self._judging = asyncio.get_running_loop().create_task(self._judge())

    def close(self) -> None:
        """No verdict any more."""
        if self._judging is not None:
            self._judging.cancel()

    async def _judge(self) -> None:
        began = time.monotonic()
        while (left := began + patience(self._evidence) + self._extra() - time.monotonic()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)
        self._on_verdict(culprit(self._evidence))
