"""How many CPUs this process can keep busy: its affinity, cut by its cgroup's quota (v2 or v1).

Standard library only. The root is an argument so that tests can lay out a file tree of their own.
"""

import math
import os
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def usable_cpus(root: Path = _ROOT) -> int:
    """CPUs, at least 1. A part of one rounds up. In a container the cgroup's root is the container's own."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    match _words(root / "cpu.max"):
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    match _words(root / "cpu" / "cpu.cfs_quota_us"), _words(root / "cpu" / "cpu.cfs_period_us"):
        case [quota], [period] if int(quota) > 0:
            return int(quota) / int(period)
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
