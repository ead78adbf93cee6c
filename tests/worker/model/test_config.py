"""What config.json may say, in either spelling, and the sentences for what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.model.config import load_config, parse_config

BASE: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}


def parse(**changes: Any) -> Any:
    return parse_config({**BASE, **changes}, {}, source="config.json")


def qwen2(**changes: Any) -> Any:
    return parse(model_type="qwen2", architectures=["Qwen2ForCausalLM"], num_key_value_heads=2, **changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": None}},
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
        ),
        ({"rope_scaling": None, "torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        (
            {"rope_scaling": {"rope_type": "yarn"}, "original_max_position_embeddings": 1024},
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
        ),
    ],
)
def test_the_spellings_of_transformers_4_and_5_mean_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert parse(**old) == parse(**new)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({}, 4096),
        ({"rope_type": "linear", "factor": 2.5}, 10240),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}, 4096),
    ],
)
def test_the_longest_sequence_follows_from_the_rope_scaling(rope: dict[str, Any], length: int) -> None:
    assert parse(rope_scaling=rope).max_model_len == length


def test_end_of_sequence_ids_of_both_files_are_united(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BASE, "eos_token_id": 7}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    assert load_config(tmp_path).eos_token_ids == (7, 9)


def test_families_fill_in_what_config_json_leaves_out() -> None:
    assert parse().num_key_value_heads == 4
    assert parse(model_type="mistral", architectures=None, num_attention_heads=16).num_key_value_heads == 8
    mistral = parse(model_type="mistral", architectures=None, num_key_value_heads=4)
    assert mistral.sliding_windows == (4096,) * 3
    assert (qwen2().qkv_bias, qwen2().o_bias, qwen2().qk_norm) == (True, False, False)
    qwen3 = parse(model_type="qwen3", architectures=None, num_key_value_heads=None, attention_bias=True)
    assert (qwen3.head_dim, qwen3.num_key_value_heads, qwen3.qk_norm, qwen3.o_bias) == (128, 4, True, True)


def test_sliding_windows_are_told_per_layer() -> None:
    assert qwen2(sliding_window=8).sliding_windows == (None, None, None)
    assert qwen2(use_sliding_window=True, sliding_window=8, max_window_layers=1).sliding_windows == (None, 8, 8)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert qwen2(use_sliding_window=True, sliding_window=8, layer_types=kinds).sliding_windows == (8, None, 8)
    assert parse(
        model_type="mistral", architectures=None, sliding_window=None, num_key_value_heads=4
    ).sliding_windows == ((None,) * 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gpt_bigcode"}, "supported are LlamaForCausalLM, MistralForCausalLM"),
        ({"model_type": ["llama"]}, "supported are"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassification'; supported"),
        (
            {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "architectures": ["EvilForCausalLM"]},
            "'EvilForCausalLM'",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"hidden_size": "64"}, "'hidden_size'"),
        ({"hidden_size": -1}, "'hidden_size'"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
        ({"vocab_size": 2**63}, "'vocab_size'"),
        ({"vocab_size": None}, "'vocab_size'"),
        ({"hidden_act": "swiglu"}, "'hidden_act'"),
        ({"num_key_value_heads": 3}, "do not share 3 kv heads"),
        ({"head_dim": 15}, "odd"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": "linear"}, "not an object"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "'mrope' is unknown"),
        ({"rope_scaling": {"type": "linear"}}, "needs factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "'factor'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "must hold 8 numbers"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
            "greater than low_freq_factor",
        ),
    ],
)
def test_what_we_could_only_run_wrongly_is_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        parse(**changes)


def test_layer_types_must_fit_the_layers() -> None:
    with pytest.raises(ModelError, match="layer_types"):
        qwen2(use_sliding_window=True, layer_types=["full_attention"])
    with pytest.raises(ModelError, match="layer_types"):
        qwen2(use_sliding_window=True, layer_types=["chunked_attention"] * 3)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
    ids=["cut", "deep", "binary", "list", "huge"],
)
def test_a_broken_config_file_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"config\.json.*{sentence}"):
        load_config(tmp_path)


def test_a_missing_directory_and_a_missing_config_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json cannot be read: No such file"):
        load_config(tmp_path)
