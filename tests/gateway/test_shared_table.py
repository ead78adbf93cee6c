"""Counters shared among processes: exact among those that live, freed of those that died, bounded whatever comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ryzanstein_gateway.shared_table import COLUMNS, PROBES, SharedTable, Unavailable

MEMBER = """
import sys
from pathlib import Path
from ryzanstein_gateway.shared_table import SharedTable, Unavailable
table = SharedTable.attach(Path(sys.argv[1]), int(sys.argv[2]))
steps = [lambda: table.update("bucket", lambda before: before + 1.0), lambda: table.add("count", 1)]
steps *= int(sys.argv[3])
while steps:
    try:
        steps[-1]()
        steps.pop()
    except Unavailable:
        pass
print("done", flush=True)
sys.stdin.read()
"""


def member(path: Path, column: int, steps: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", MEMBER, str(path), str(column), str(steps)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=30)


def test_no_step_of_any_process_is_lost_and_a_dead_ones_counts_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "table"
    members = [member(path, column, 2000) for column in (1, 2)]
    try:
        for one in members:
            assert one.stdout is not None
            assert one.stdout.readline() == "done\n"
        table = SharedTable.attach(path, 0)
        assert table.update("bucket", lambda before: before) == 4000.0
        assert table.count("count") == 4000
        members[0].kill()
        members[0].wait(30)
        table.clear(1)
        assert table.count("count") == 2000
        SharedTable.attach(path, 2).close()  # a process that takes its place begins at nothing
        assert table.count("count") == 0
        table.close()
    finally:
        for one in members:
            end(one)


def test_a_process_frozen_with_the_lock_does_not_freeze_the_others(tmp_path: Path) -> None:
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "table"
    table = SharedTable.attach(path, 0)
    frozen = subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == "held\n"
        os.kill(frozen.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            table.add("count", 1)
        assert time.monotonic() - began < 20  # its holder is frozen until the end: this is far from for ever
    finally:
        end(frozen)
    assert table.add("count", 1) == 1, "its lock went with it"
    table.close()


def test_a_full_table_forgets_what_was_idle_longest_and_nothing_that_counts() -> None:
    now = [0.0]
    table = SharedTable.private(slots=PROBES, clock=lambda: now[0])
    table.add("running", 1)
    table.update("flowing", lambda _: 1e9)
    for number in range(10 * PROBES):
        now[0] += 1
        table.update(f"idle-{number}", lambda _: now[0])
    assert table.count("running") == 1
    assert table.update("flowing", lambda before: before) == 1e9
    assert table.update(f"idle-{10 * PROBES - 1}", lambda before: before) == now[0], "the newest is still there"
    assert table.update("idle-0", lambda before: before) == 0.0, "the oldest was forgotten"
    table.close()


def test_a_table_full_of_what_counts_says_so() -> None:
    table = SharedTable.private(slots=PROBES)
    for number in range(PROBES):
        table.add(f"running-{number}", 1)
    with pytest.raises(Unavailable):
        table.add("one more", 1)
    assert table.count("one more") == 0
    assert table.add("running-0", -1) == 0
    assert table.add("one more", 1) == 1
    table.close()


def test_a_count_does_not_fall_below_zero_and_strangers_are_refused(tmp_path: Path) -> None:
    table = SharedTable.private()
    table.add("a", 1)
    assert table.add("a", -2) == 0
    table.close()
    with pytest.raises(ValueError, match="not one of"):
        SharedTable.attach(tmp_path / "table", COLUMNS)
    (tmp_path / "other").write_bytes(b"x" * 4096)
    with pytest.raises(ValueError, match="no shared table"):
        SharedTable.attach(tmp_path / "other", 0)
