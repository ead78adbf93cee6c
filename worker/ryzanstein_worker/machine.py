"""What this process may use of the machine: CPU time and memory, as its cgroup (v1 or v2) and affinity allow.

Standard library only; reads /proc and /sys, changes nothing. The roots are arguments so that tests can lay out a
file tree of their own.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_UNLIMITED_V1 = 1 << 60  # v1 says "no limit" by a number close to 2**63


def usable_cpus(cgroup_root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> int:
    """CPUs that this process can keep busy: its affinity, cut by the tightest CPU quota above it, at least 1."""
    cpus = len(os.sched_getaffinity(0))
    for quota in _cpu_quotas(cgroup_root, proc):
        # A part of a CPU rounds up: 1.5 CPUs run two threads better than one.
        cpus = min(cpus, math.ceil(quota))
    return max(1, cpus)


def available_memory(cgroup_root: Path = _CGROUP_ROOT, proc: Path = _PROC) -> int:
    """Bytes that can still be allocated: the machine's free memory, cut by the tightest memory limit above us."""
    available = _mem_available(proc)
    for limit, usage in _memory_limits(cgroup_root, proc):
        available = min(available, max(0, limit - usage))
    return available


def _mem_available(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _cpu_quotas(root: Path, proc: Path) -> Iterator[float]:
    for folder in _folders(root, proc, controller=None):
        fields = _read(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0] != "max":
            yield int(fields[0]) / int(fields[1])
    for folder in _folders(root / "cpu", proc, controller="cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            yield int(quota) / int(period)


def _memory_limits(root: Path, proc: Path) -> Iterator[tuple[int, int]]:
    for folder in _folders(root, proc, controller=None):
        limit, usage = _read(folder / "memory.max"), _read(folder / "memory.current")
        if limit and usage and limit != "max":
            yield int(limit), int(usage) - _reclaimable(folder)
    for folder in _folders(root / "memory", proc, controller="memory"):
        limit, usage = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
        if limit and usage and int(limit) < _UNLIMITED_V1:
            yield int(limit), int(usage) - _reclaimable(folder)


def _reclaimable(folder: Path) -> int:
    """Page cache that the kernel gives back before it kills: without it a pod that has read its weights looks full."""
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _folders(root: Path, proc: Path, controller: str | None) -> Iterator[Path]:
    """The process' own cgroup folder and all above it, up to `root` (in a container the root is the pod's own)."""
    yield root
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if (controller is None and controllers == "") or (
            controller is not None and controller in controllers.split(",")
        ):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(1, len(parts) + 1):
                yield root.joinpath(*parts[:depth])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
