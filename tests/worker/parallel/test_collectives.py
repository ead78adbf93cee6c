"""Groups of real processes: they agree, and none waits for ever for one that is gone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from collective_main import LONG_SECONDS, SHORT_SECONDS
from ryzanstein_worker.parallel.collectives import all_reduce, broadcast_ints, gather_vocab
from ryzanstein_worker.parallel.group import SINGLE, Group

CPU = torch.device("cpu")

# Real processes that import torch: seconds here, a minute on a busy machine.
pytestmark = [pytest.mark.timeout(300), pytest.mark.ranks]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks of collective_main wrote what became of them."""
    directory = tmp_path_factory.mktemp("group")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    subprocess.run([sys.executable, "-m", "collective_main", str(directory)], env=environment, check=True, timeout=250)
    return directory


@pytest.fixture(params=["shared_memory", "gloo"])
def said(request: pytest.FixtureRequest, told: Path) -> Callable[[str, int], list[str]]:
    return lambda scenario, rank: (told / f"{scenario}.{request.param}.{rank}").read_text().splitlines()


def test_three_ranks_agree_in_every_collective(said: Callable[[str, int], list[str]]) -> None:
    assert [said("agree", rank) for rank in range(3)] == [["joined", "agreed"]] * 3


# A death is seen, and not by the timeout; a freeze is seen by the timeout, and that has an end.
@pytest.mark.parametrize(("scenario", "within"), [("die", LONG_SECONDS - 1), ("freeze", 4 * SHORT_SECONDS)])
def test_a_peer_that_dies_or_freezes_ends_the_collective_of_the_others(
    scenario: str, within: float, said: Callable[[str, int], list[str]]
) -> None:
    survivor, fallen = said(scenario, 0), said(scenario, 1)
    assert fallen == ["joined"]
    assert survivor[0] == "joined"
    assert survivor[1].startswith("lost after")
    assert float(survivor[1].split()[-1]) < within


@pytest.mark.parametrize(("scenario", "rank"), [("alone", 0), ("without-first", 1)])
def test_a_rank_whose_peers_never_come_gives_up(
    scenario: str, rank: int, said: Callable[[str, int], list[str]]
) -> None:
    (line,) = said(scenario, rank)
    assert line.startswith("lost after")


def test_the_shared_memory_has_no_name_left_that_another_could_open(told: Path) -> None:
    assert not (told / "agree.shared_memory.store").exists()


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
