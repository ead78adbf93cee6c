"""What a session of processes has used, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Sums over the processes of a session. RSS is in bytes; a page that two of them share counts twice."""

    processes: int
    cpu_seconds: float
    rss: int
    files: int


def usage(session: int) -> Usage:
    """Of every process whose session is that of `session`'s leader."""
    cpu, rss, files, processes = 0, 0, 0, 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            status = (folder / "status").read_text()
            files += len(os.listdir(folder / "fd"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        processes += 1
        cpu += int(fields[11]) + int(fields[12])
        rss += int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return Usage(processes, cpu / _TICK, rss, files)
