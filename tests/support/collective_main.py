"""One rank of a real group for tests of the collectives: `python -m collective_main RANK SIZE STORE SCENARIO`.

Prints a line when it is in the group, then one for what became of the scenario.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from ryzanstein_worker.parallel.collectives import all_reduce, barrier, broadcast_ints, gather_vocab
from ryzanstein_worker.parallel.group import Group, PeerLostError

CPU = torch.device("cpu")


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


def main(rank: int, size: int, store: Path, scenario: str) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        group = Group.join(rank, size, store_path=store, device=CPU, timeout_seconds=2)
        print("joined", flush=True)
        started = time.monotonic()
        acts = {"agree": agree, "die": lambda g: stay(g, signal.SIGKILL), "freeze": lambda g: stay(g, signal.SIGSTOP)}
        print(acts[scenario](group), flush=True)
        group.close()
    except PeerLostError:
        print(f"lost after {time.monotonic() - started:.1f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
