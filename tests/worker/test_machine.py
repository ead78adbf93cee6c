"""CPU and memory limits, from cgroup trees of both versions laid out in a folder."""

import os
from pathlib import Path

import pytest

from ryzanstein_worker.machine import available_memory, usable_cpus

MIB = 2**20


class Machine:
    """A /proc and a /sys/fs/cgroup of our own, with 1000 MiB available."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.write("../proc/meminfo", f"MemTotal: 2048000 kB\nMemAvailable: {1000 * 1024} kB\n")
        self.membership("0::/")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def membership(self, lines: str) -> None:
        self.write("../proc/self/cgroup", lines)

    @property
    def cpus(self) -> int:
        return usable_cpus(self.root, self.proc)

    @property
    def memory(self) -> int:
        return available_memory(self.root, self.proc)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cgroup").mkdir()
    return Machine(tmp_path)


def test_without_limits_the_machine_counts(machine: Machine) -> None:
    machine.write("cpu.max", "max 100000\n")
    machine.write("memory.max", "max\n")
    assert (machine.cpus, machine.memory) == (8, 1000 * MIB)


def test_version_2_limits_count_with_what_is_used_already(machine: Machine) -> None:
    machine.write("cpu.max", "150000 100000\n")
    machine.write("memory.max", f"{400 * MIB}\n")
    machine.write("memory.current", f"{150 * MIB}\n")
    machine.write("memory.stat", f"anon 5\ninactive_file {50 * MIB}\n")
    assert (machine.cpus, machine.memory) == (2, 300 * MIB)


def test_the_tightest_folder_above_counts(machine: Machine) -> None:
    machine.membership("0::/pod/container\n")
    machine.write("pod/cpu.max", "300000 100000\n")
    machine.write("pod/container/cpu.max", "max 100000\n")
    assert machine.cpus == 3


def test_version_1_limits_count(machine: Machine) -> None:
    machine.membership("4:memory:/pod\n3:cpu,cpuacct:/pod\n")
    machine.write("cpu/cpu.cfs_quota_us", "-1\n")
    machine.write("cpu/cpu.cfs_period_us", "100000\n")
    machine.write("cpu/pod/cpu.cfs_quota_us", "50000\n")
    machine.write("cpu/pod/cpu.cfs_period_us", "100000\n")
    machine.write("memory/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    machine.write("memory/memory.usage_in_bytes", "1\n")
    machine.write("memory/pod/memory.limit_in_bytes", f"{200 * MIB}\n")
    machine.write("memory/pod/memory.usage_in_bytes", f"{250 * MIB}\n")
    assert (machine.cpus, machine.memory) == (1, 0)


def test_this_machine_has_something() -> None:
    assert usable_cpus() >= 1
    assert available_memory() > MIB
