"""One rank of a real group, started by tests: `python -m rank_main RANK SIZE STORE OUTPUT DIR...`.

Runs the scenario of parity_models on each directory; rank 0 writes logits and tokens to OUTPUT as safetensors.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from parity_models import CPU, Scenario, load_tiny
from ryzanstein_worker.parallel.collectives import broadcast_ints
from ryzanstein_worker.parallel.group import Group


def main(rank: int, size: int, store: Path, output: Path, directories: list[Path]) -> None:
    torch.set_num_threads(1)
    group = Group.join(rank, size, store_path=store, device=CPU, timeout_seconds=20)
    results: dict[str, torch.Tensor] = {}
    for directory in directories:
        scenario = Scenario(*load_tiny(directory, group)).run(lambda tokens: broadcast_ints(tokens, 3, group, CPU))
        for index, tokens in enumerate(scenario.tokens):
            results[f"{directory.name}.{index}.tokens"] = torch.tensor(tokens)
            if rank == 0:
                results[f"{directory.name}.{index}.logits"] = torch.cat(scenario.logits[index])
    save_file(results, f"{output}.{rank}")
    group.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), [Path(d) for d in sys.argv[5:]])
