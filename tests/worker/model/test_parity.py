"""Our logits are transformers' logits: every family, every rope type, tied or not, sharded or not, one rank or two."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from parity_models import CASES, MAX_MODEL_LEN, Case, Scenario, load_tiny, make_model, save_model
from ryzanstein_worker.parallel.group import SINGLE

pytestmark = pytest.mark.timeout(300)  # the first test imports transformers and makes all checkpoints

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@dataclass(frozen=True)
class Built:
    models: dict[str, Any]
    directories: dict[str, Path]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("models")
    models = {case.name: make_model(case) for case in CASES}
    return Built(models, {c.name: save_model(models[c.name], root / c.name, sharded=c.sharded) for c in CASES})


@pytest.fixture(scope="module")
def two_ranks(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, torch.Tensor]]:
    """What each of two real gloo processes computed, all checkpoints in one start."""
    output = tmp_path_factory.mktemp("ranks") / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    command = [sys.executable, "-m", "rank_main", "2", str(output), *map(str, built.directories.values())]
    subprocess.run(command, env=environment, check=True, timeout=200)
    return {rank: load_file(f"{output}.{rank}") for rank in range(2)}


def reference_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """Of one whole forward. Padded to MAX_MODEL_LEN, by which dynamic and longrope choose their frequencies."""
    padded = torch.tensor([tokens + [0] * (MAX_MODEL_LEN - len(tokens))])
    with torch.no_grad():
        return model(padded).logits[0, : len(tokens)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prefill_chunks_decode_and_mixed_batches_give_the_logits_of_transformers(case: Case, built: Built) -> None:
    scenario = Scenario(*load_tiny(built.directories[case.name], SINGLE)).run()
    for tokens, logits in zip(scenario.tokens, scenario.logits, strict=True):
        expected = reference_logits(built.models[case.name], tokens)
        torch.testing.assert_close(torch.cat(logits), expected, **TOLERANCE)


@pytest.mark.ranks
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_give_the_logits_and_the_greedy_tokens_of_one(
    case: Case, built: Built, two_ranks: dict[int, dict[str, torch.Tensor]]
) -> None:
    scenario = Scenario(*load_tiny(built.directories[case.name], SINGLE)).run()
    for index, (tokens, logits) in enumerate(zip(scenario.tokens, scenario.logits, strict=True)):
        name = f"{case.name}.{index}"
        assert two_ranks[0][f"{name}.tokens"].tolist() == tokens
        assert two_ranks[1][f"{name}.tokens"].tolist() == tokens
        torch.testing.assert_close(two_ranks[0][f"{name}.logits"], torch.cat(logits), **TOLERANCE)


def test_longrope_uses_the_short_factors_when_no_sequence_can_be_long(built: Built) -> None:
    decoder, kv = load_tiny(built.directories["llama-longrope"], SINGLE, max_model_len=32)
    scenario = Scenario(decoder, kv)
    scenario._step((32, 0, 0))
    with torch.no_grad():
        expected = built.models["llama-longrope"](torch.tensor([scenario.tokens[0][:32]])).logits[0]
    torch.testing.assert_close(scenario.logits[0][0], expected, **TOLERANCE)


@pytest.mark.parametrize(
    "overrides",
    [
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "attention_factor": 1.5}},
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "mscale": 0.7,
                "mscale_all_dim": 0.4,
                "truncate": False,
            }
        },
        {"hidden_act": "gelu_pytorch_tanh", "attention_bias": False, "mlp_bias": False},
        {"num_key_value_heads": 4, "head_dim": 24},
    ],
    ids=["yarn-attention-factor", "yarn-mscale-untruncated", "gelu-no-bias", "multi-head-odd-size"],
)
def test_less_common_settings_give_the_logits_of_transformers(overrides: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(Case("llama", "default"), **overrides)
    scenario = Scenario(*load_tiny(save_model(model, tmp_path, sharded=False), SINGLE)).run()
    for tokens, logits in zip(scenario.tokens, scenario.logits, strict=True):
        torch.testing.assert_close(torch.cat(logits), reference_logits(model, tokens), **TOLERANCE)
