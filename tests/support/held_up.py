"""For how long a machine let processes wait that could have run: what a promise in seconds is counted without."""

import glob
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def waited(pid: int) -> float:
    """Seconds that the threads of a process were ready to run and had no CPU; of those that live."""
    found = 0
    for name in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += int(Path(name).read_text().split()[1])
    return found / 1e9


class Held:
    """For how long this machine has held up the processes that a promise is about."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._before = {pid: waited(pid) for pid in pids}

    def seconds(self) -> float:
        """Since it was made."""
        return sum(max(0.0, waited(pid) - before) for pid, before in self._before.items())  # less than none: it ended
