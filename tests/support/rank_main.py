"""Real groups of ranks for tests: `python -m rank_main SIZE OUTPUT DIR...`.

One process imports torch and forks the ranks, which saves seconds a rank. Each runs the scenario of parity_models on
every directory and writes what it computed to OUTPUT.RANK as safetensors.
"""

import multiprocessing
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from parity_models import CPU, Scenario, load_tiny
from ryzanstein_worker.parallel.collectives import broadcast_ints
from ryzanstein_worker.parallel.group import Group


def run_rank(rank: int, size: int, output: str, directories: list[Path]) -> None:
    torch.set_num_threads(1)
    group = Group.join(rank, size, store_path=Path(f"{output}.store"), device=CPU, timeout_seconds=60)
    results: dict[str, torch.Tensor] = {}
    for directory in directories:
        scenario = Scenario(*load_tiny(directory, group)).run(lambda tokens: broadcast_ints(tokens, 3, group, CPU))
        for index, tokens in enumerate(scenario.tokens):
            results[f"{directory.name}.{index}.tokens"] = torch.tensor(tokens)
            if rank == 0:
                results[f"{directory.name}.{index}.logits"] = torch.cat(scenario.logits[index])
    save_file(results, f"{output}.{rank}")
    group.close()


def main(size: int, output: str, directories: list[Path]) -> int:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(rank, size, output, directories)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=180)
    return max(abs(rank.exitcode) if rank.exitcode is not None else 124 for rank in ranks)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], [Path(d) for d in sys.argv[3:]]))
