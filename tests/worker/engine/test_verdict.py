"""Who is blamed for the loss of a group, and who may join it: the rules, without a process."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.engine import verdict
from ryzanstein_worker.engine.identity import misfit, settings_of
from ryzanstein_worker.engine.inquest import Inquest
from ryzanstein_worker.engine.node_frames import Attach, Join, Leaving
from ryzanstein_worker.engine.roll import Phase, Roll
from ryzanstein_worker.engine.silence import Silence
from ryzanstein_worker.engine.verdict import Blame, Evidence, culprit, patience
from tiny_model import write_tiny_model

DIED = Evidence(Blame.DIED, 3, "rank 3 was killed")
STOPPED = Evidence(Blame.STOPPED, 2, "rank 2 is stopped", 4.0)
GONE = Evidence(Blame.NODE_GONE, None, "node rank 1 has gone")
MUTE = Evidence(Blame.NODE_SILENT, None, "node rank 1 gave no sign", 5.0)
SILENT, LONGER = Evidence(Blame.SILENT, 0, "rank 0", 5.0), Evidence(Blame.SILENT, 1, "rank 1", 5.2)
WITNESS = Evidence(Blame.WITNESS, 0, "rank 0 lost its peers")


@pytest.mark.parametrize(
    ("told", "blamed"),
    [
        ([WITNESS, DIED], DIED),
        ([WITNESS, GONE], GONE),
        ([SILENT, STOPPED, GONE], STOPPED),
        ([SILENT, MUTE], MUTE),
        ([SILENT, LONGER, WITNESS], LONGER),
        ([WITNESS], WITNESS),
        ([GONE, Evidence(Blame.NODE_GONE, None, "node rank 2 has gone")], GONE),
    ],
)
def test_the_culprit_is_named_and_not_the_witness(told: list[Evidence], blamed: Evidence) -> None:
    assert culprit(told) == blamed
    assert patience([WITNESS]) > patience(told) or blamed.blame >= Blame.NODE_SILENT


async def test_better_evidence_is_waited_for_and_then_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # So long that even a machine that stands still for seconds is through before.
    monkeypatch.setattr(verdict, "_LONG_PATIENCE_SECONDS", 50.0)
    verdicts: list[Evidence] = []
    inquest = Inquest(verdicts.append)
    began = time.monotonic()
    inquest.add(WITNESS)
    await asyncio.sleep(0.05)
    assert not verdicts
    inquest.add(DIED)
    while not verdicts:
        assert time.monotonic() - began < 30
        await asyncio.sleep(0.01)
    assert verdicts == [DIED]
    assert patience([DIED]) <= time.monotonic() - began < patience([WITNESS])
    inquest.add(GONE)
    await asyncio.sleep(0.05)
    assert verdicts == [DIED], "a verdict is told once"


def test_silence_counts_ticks_and_a_pause_of_ones_own_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    silence = Silence(EngineConfig(model_dir="", hang_timeout_seconds=2.0))
    now += 3600
    assert not silence.is_too_long()
    assert silence.seconds == 1.0
    silence.heard()
    for _ in range(4):
        now += 0.5
        assert not silence.is_too_long()
    now += 0.5
    assert silence.is_too_long()


# --- Who may come in ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Join:
    model = write_tiny_model(tmp_path_factory.mktemp("model"))
    return settings_of(EngineConfig(model_dir=str(model), tensor_parallel_size=4, nnodes=2), HEAD, "r1")


OTHER = GroupConfig(node_rank=1, master_addr="chat-0.chat-group", key_file="")
HEAD = GroupConfig(node_rank=0, master_addr="chat-0.chat-group", key_file="")


def _other(own: Join, **values: object) -> Join:
    config = msgspec.structs.replace(own.config, model_dir="/elsewhere", threads_per_rank=9, **values)
    return msgspec.structs.replace(own, node_rank=1, config=config)


def test_a_pod_like_the_first_fits_whatever_its_paths_and_cpus(own: Join) -> None:
    assert misfit(own, _other(own)) is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nnodes": 4}, "Node rank 1 has --nnodes 4, node rank 0 has 2: a group needs the same."),
        ({"tensor_parallel_size": 8}, "Node rank 1 has --tensor-parallel-size 8, node rank 0 has 4"),
        ({"enable_prefix_caching": False}, "has --no-enable-prefix-caching False, node rank 0 has True"),
        ({"max_model_len": 9}, "has --max-model-len 9, node rank 0 has None"),
    ],
)
def test_other_settings_are_refused_with_the_flag(own: Join, values: dict[str, object], sentence: str) -> None:
    assert sentence in (misfit(own, _other(own, **values)) or "")


def test_another_place_revision_or_model_is_refused(own: Join, tmp_path: Path) -> None:
    for place in (0, 2):
        assert "is not a place" in (misfit(own, msgspec.structs.replace(_other(own), node_rank=place)) or "")
    assert "the revision r2" in (misfit(own, msgspec.structs.replace(_other(own), revision="r2")) or "")
    wider = write_tiny_model(tmp_path / "wider", hidden_size=64)
    other = settings_of(msgspec.structs.replace(own.config, model_dir=str(wider)), OTHER, "r1")
    assert "another model" in (misfit(own, other) or "")
    model = write_tiny_model(tmp_path / "same")
    same = settings_of(msgspec.structs.replace(own.config, model_dir=str(model)), OTHER, "r1")
    assert misfit(own, same) is None


def test_a_pod_that_followed_an_old_address_is_sent_away_but_not_for_ever(own: Join) -> None:
    roll: Roll[str, str] = Roll(own.config, own)
    lost = msgspec.structs.replace(_other(own), master_addr="other-0.chat-group")
    assert "which chat-0.chat-group has now" in (roll.objection(lost) or "")
    assert not roll.is_for_ever(lost)
    assert roll.is_for_ever(_other(own, max_num_seqs=1))
    assert not roll.is_for_ever(Attach(epoch="e0", rank=2))


def test_a_rank_is_attached_once_in_its_own_epoch_and_only_for_a_pod_that_came(own: Join) -> None:
    roll: Roll[str, str] = Roll(own.config, own)
    assert roll.objection(_other(own)) is None
    assert roll.enter(1, "pod") is None
    assert "is over" in (roll.objection(Attach(epoch="e1", rank=2)) or "")
    roll.start("e1")
    assert roll.is_complete
    assert roll.objection(Attach(epoch="e1", rank=2)) is None
    assert roll.objection(Attach(epoch="e0", rank=2)) == "Epoch e0 of the group is over."
    assert "no other pod's" in (roll.objection(Attach(epoch="e1", rank=1)) or "")
    roll.wires[2] = "wire"
    assert "attached already" in (roll.objection(Attach(epoch="e1", rank=2)) or "")
    assert not roll.is_wired
    roll.wires[3] = "wire"
    assert roll.is_wired
    assert roll.objection(Leaving()) is not None
    roll.phase = Phase.ENDED
    assert "is over" in (roll.objection(Attach(epoch="e1", rank=2)) or "")


def test_a_group_that_did_not_come_together_says_who_is_absent_and_why(own: Join) -> None:
    roll: Roll[str, str] = Roll(own.config, own)
    assert roll.absent(9) == "node rank 1 did not come within 9 s"
    roll.objection(_other(own, max_num_seqs=1))
    assert "node rank 1 did not come within 9 s. Node rank 1 has --max-num-seqs 1" in roll.absent(9)
    roll.enter(1, "pod")
    assert "not all their ranks connected" in roll.absent(9)
