"""Real groups for tests of the collectives: `python -m collective_main DIRECTORY`.

One process imports torch and forks the ranks of all scenarios. Each rank writes to DIRECTORY/SCENARIO.BACKEND.RANK one
line when it is in the group, and one for what became of it.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

from ryzanstein_worker.parallel.collectives import all_reduce, barrier, broadcast_ints, gather_vocab
from ryzanstein_worker.parallel.group import Backend, Group, PeerLostError

CPU = torch.device("cpu")
SHORT_SECONDS, LONG_SECONDS = 4.0, 25.0
"""The group's timeout: where a rank shall run into it, and where it shall not though the machine stands still."""


def agree(group: Group) -> str:
    """Every collective once in every size class, checked against what it must be."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape in ((1,), (3, 64), (257, 1024)):
            mine = torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(7).to(dtype)
            total = all_reduce(mine * (group.rank + 1), group)
            assert torch.equal(total, mine * sum(range(1, group.size + 1)))
    joined = gather_vocab(torch.full((2, 3), float(group.rank)), group)
    assert (joined is None) == (group.rank > 0)
    if joined is not None:
        assert joined.tolist() == [[float(rank) for rank in range(group.size) for _ in range(3)]] * 2
    wide = gather_vocab(torch.full((3, 200_000), float(group.rank)), group)
    assert wide is None or wide.sum().item() == 3 * 200_000 * sum(range(group.size))
    assert broadcast_ints([5, -1, 2**62] if group.rank == 0 else None, 3, group, CPU) == [5, -1, 2**62]
    barrier(group, CPU)
    return "agreed"


def stay(group: Group, last_act: int) -> str:
    """Rank 1 sends itself a signal in the middle; the others go on."""
    for step in range(1000):
        if group.rank == 1 and step == 20:
            os.kill(os.getpid(), last_act)
        all_reduce(torch.ones(64), group)
    return "all steps done"


def never(group: Group) -> str:
    return "was not alone"


@dataclass(frozen=True)
class Case:
    """A group of `size` of which `present` ranks come."""

    size: int
    present: int
    act: Callable[[Group], str]
    timeout_seconds: float


CASES = {
    "agree": Case(3, 3, agree, LONG_SECONDS),
    "die": Case(2, 2, lambda group: stay(group, signal.SIGKILL), LONG_SECONDS),
    "freeze": Case(2, 2, lambda group: stay(group, signal.SIGSTOP), SHORT_SECONDS),
    "alone": Case(2, 1, never, SHORT_SECONDS),
    "without-first": Case(2, 1, never, SHORT_SECONDS),
}
BACKENDS: tuple[Backend, ...] = ("shared_memory", "gloo")


def run_rank(rank: int, backend: Backend, name: str, directory: Path) -> None:
    torch.set_num_threads(1)
    case = CASES[name]
    store = directory / f"{name}.{backend}.store"
    started = time.monotonic()
    with (directory / f"{name}.{backend}.{rank}").open("w", buffering=1) as said:
        try:
            seconds = case.timeout_seconds
            group = Group.join(rank, case.size, store_path=store, device=CPU, timeout_seconds=seconds, backend=backend)
            said.write("joined\n")
            started = time.monotonic()
            said.write(f"{case.act(group)}\n")
            group.close()
        except PeerLostError:
            said.write(f"lost after {time.monotonic() - started:.1f}\n")


def start(backend: Backend, name: str, directory: Path) -> list[ForkProcess]:
    first = 1 if name == "without-first" else 0
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=run_rank, args=(number, backend, name, directory))
        for number in range(first, first + CASES[name].present)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def finish(name: str, ranks: list[ForkProcess]) -> None:
    """A rank that froze never ends: it is killed when the others are through."""
    for rank in ranks[:1] if name == "freeze" else ranks:
        rank.join(timeout=60)
    for rank in ranks:
        rank.kill()
        rank.join(timeout=5)


def main(directory: Path) -> None:
    """Those that only wait for a deadline do so side by side."""
    for backend in BACKENDS:
        finish("agree", start(backend, "agree", directory))
    waiting = [(name, start(backend, name, directory)) for backend in BACKENDS for name in CASES if name != "agree"]
    for name, ranks in waiting:
        finish(name, ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
