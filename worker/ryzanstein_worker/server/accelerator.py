"""What a fault of the accelerator means for the worker's life: it is told of, and a restart in place is no cure.

Joins the watch of the accelerators with the probes, the metrics and the end of the process.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Self

from ryzanstein_worker.config import DeviceName
from ryzanstein_worker.contract import EXIT_GROUP_LOST
from ryzanstein_worker.telemetry.accelerator import AcceleratorWatch
from ryzanstein_worker.telemetry.metrics import ServerMetrics
from ryzanstein_worker.telemetry.termination import write_termination_log

STAY_SECONDS: Final = 15.0
"""How long a worker that has lost its engine to a fault still says so, for the gateways to hear it: a container that
starts again on the same device says nothing for as long as that takes."""

_log = logging.getLogger(__name__)


class Guard:
    """Watches the accelerators while its context lasts; only where CUDA is asked for, as in a pod that has GPUs: what
    runs on a CPU (or `auto` finds one) must not be judged by a GPU that it does not use."""

    def __init__(self, device: DeviceName, metrics: ServerMetrics) -> None:
        self._watch = AcceleratorWatch(_tell) if device == "cuda" else None
        if self._watch is not None:
            watch = self._watch
            metrics.watch_accelerator(lambda: watch.healthy)

    def fault(self) -> str:
        """A sentence, or nothing. From any thread."""
        return self._watch.fault if self._watch is not None else ""

    def __enter__(self) -> Self:
        if self._watch is not None:
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.stop()

    async def leave(self, code: int, stop: Callable[[], Awaitable[object]]) -> int:
        """The exit code of a process that is about to end with `code`. At a fault it first stays for a while, or until
        it is told to stop."""
        if code == 0 or not self.fault():
            return code
        _tell(self.fault())
        _log.info("staying until the fault is known", extra={"seconds": STAY_SECONDS})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAY_SECONDS):
                await stop()
        return EXIT_GROUP_LOST


def _tell(fault: str) -> None:
    write_termination_log(f"The accelerator is at fault. {fault}")
