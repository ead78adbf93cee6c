"""Groups of real processes: they agree, and none waits for ever for one that is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ryzanstein_worker.parallel.collectives import all_reduce, broadcast_ints, gather_vocab
from ryzanstein_worker.parallel.group import SINGLE, Group

CPU = torch.device("cpu")


def start(rank: int, size: int, store: Path, scenario: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    command = [sys.executable, "-m", "collective_main", str(rank), str(size), str(store), scenario]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def run(size: int, store: Path, scenario: str) -> list[list[str]]:
    """What each rank printed; one that froze is killed when the others have ended."""
    ranks = [start(rank, size, store, scenario) for rank in range(size)]
    try:
        said = {0: ranks[0].communicate(timeout=40)[0].splitlines()}
        for rank in range(1, size):
            if scenario == "freeze" and rank == 1:
                ranks[rank].kill()
            said[rank] = ranks[rank].communicate(timeout=40)[0].splitlines()
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return [said[rank] for rank in range(size)]


def test_three_ranks_agree_in_every_collective(tmp_path: Path) -> None:
    assert run(3, tmp_path / "store", "agree") == [["joined", "agreed"]] * 3


@pytest.mark.parametrize(("scenario", "within"), [("die", 1.0), ("freeze", 3.5)])
def test_a_peer_that_dies_or_freezes_ends_the_collective_of_the_others(
    scenario: str, within: float, tmp_path: Path
) -> None:
    survivor, fallen = run(2, tmp_path / "store", scenario)
    assert fallen == ["joined"]
    assert survivor[0] == "joined"
    assert survivor[1].startswith("lost after")
    assert float(survivor[1].split()[-1]) < within


def test_a_rank_whose_peers_never_come_gives_up(tmp_path: Path) -> None:
    alone = start(0, 2, tmp_path / "store", "agree")
    try:
        assert alone.communicate(timeout=40)[0].startswith("lost after")
    finally:
        alone.kill()
        alone.wait()


def test_a_group_of_one_opens_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    group = Group.join(0, 1, store_path=store, device=CPU, timeout_seconds=1)
    x = torch.ones(3)
    assert all_reduce(x, group) is x
    assert gather_vocab(x, group) is x
    assert broadcast_ints([1, 2], 2, group, CPU) == [1, 2]
    group.close()
    assert not store.exists()
    assert not torch.distributed.is_initialized()
    assert group == SINGLE


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_its_group_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in a group"):
        Group(rank, size)
