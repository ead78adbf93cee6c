"""What processes and descriptors there are, and waiting for a change with a deadline. Reads /proc."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def started_at(pid: int) -> int:
    """The moment at which the process began, in the kernel's clock ticks: with the id it names one process for ever."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def children(pid: int) -> list[int]:
    """Direct children, zombies too. A thread that ends while it is looked at has none."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def open_descriptors() -> dict[str, str]:
    """This process' descriptors and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:  # the one that listed the folder
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until `condition` held. Raises AssertionError after `seconds`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"after {seconds} s still not: {what}"
        time.sleep(0.01)
    return time.monotonic() - start


async def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """The same on an event loop."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"after {seconds} s still not: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - start
