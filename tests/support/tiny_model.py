"""A tiny random llama in Hugging Face layout, for tests that need a model directory.

Knows the on-disk layout (config.json, safetensors, tokenizer.json, tokenizer_config.json) and nothing of the
worker, so that a mistake of the worker's loader cannot hide in here. Written in well under a second.
"""

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Kubernetes keeps the pods running while the engine streams one token after another.",
    "A journey of a thousand miles begins with a single step; grüße, 你好, 🙂!",
]


def write_tiny_model(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden_size: int = 32,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 64,
    vocab_size: int = 384,
    max_position_embeddings: int = 512,
    tie_word_embeddings: bool = False,
    seed: int = 0,
) -> Path:
    """Write the model and its tokenizer into `directory` (made where absent) and return it.

    The weights are seeded: equal arguments give equal files. They are scaled so that greedy continuations
    vary from prompt to prompt instead of falling into one token.
    """
    directory.mkdir(parents=True, exist_ok=True)
    head_dim = hidden_size // num_heads
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab_size,
        "max_position_embeddings": max_position_embeddings,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tie_word_embeddings,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [0, 2]}))
    save_file(_weights(config, seed), directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_text(_tokenizer_json(vocab_size))
    (directory / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(max_position_embeddings), indent=2))
    return directory


def _weights(config: dict[str, object], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul(gain / columns**0.5)

    def norm(size: int) -> torch.Tensor:
        return 1.0 + 0.1 * torch.randn(size, generator=generator)

    size = {name: value for name, value in config.items() if isinstance(value, int)}
    hidden, inner, head_dim = size["hidden_size"], size["intermediate_size"], size["head_dim"]
    q_size, kv_size = size["num_attention_heads"] * head_dim, size["num_key_value_heads"] * head_dim
    weights = {
        "model.embed_tokens.weight": torch.randn(size["vocab_size"], hidden, generator=generator),
        "model.norm.weight": norm(hidden),
    }
    for layer in range(size["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.input_layernorm.weight": norm(hidden),
            f"{prefix}.post_attention_layernorm.weight": norm(hidden),
            f"{prefix}.self_attn.q_proj.weight": matrix(q_size, hidden, gain=2.0),
            f"{prefix}.self_attn.k_proj.weight": matrix(kv_size, hidden, gain=2.0),
            f"{prefix}.self_attn.v_proj.weight": matrix(kv_size, hidden),
            f"{prefix}.self_attn.o_proj.weight": matrix(hidden, q_size),
            f"{prefix}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{prefix}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{prefix}.mlp.down_proj.weight": matrix(hidden, inner),
        }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(size["vocab_size"], hidden, gain=2.0)
    return weights


@functools.cache
def _tokenizer_json(vocab_size: int) -> str:
    """A byte-level BPE: every text round-trips. Smaller than `vocab_size` where the corpus yields fewer merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return str(tokenizer.to_str())


def _tokenizer_config(model_max_length: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "model_max_length": model_max_length,
        "chat_template": CHAT_TEMPLATE,
    }
