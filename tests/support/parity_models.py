"""Tiny random checkpoints of every family and rope type, made by transformers, and a scenario to run them through.

The scenario is the same on one rank and on several, so that its results can be compared number by number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ryzanstein_worker.model.config import load_config
from ryzanstein_worker.model.decoder import Decoder
from ryzanstein_worker.model.kv_cache import KVCache
from ryzanstein_worker.model.loader import load_model
from ryzanstein_worker.model.meta import BatchMeta, SequenceSlice
from ryzanstein_worker.parallel.group import Group

CPU = torch.device("cpu")
VOCAB = 97  # odd: does not divide by the ranks
MAX_MODEL_LEN = 48
BLOCK_SIZE = 4
GREEDY_TOKENS = 5

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "mistral": {"sliding_window": 11, "head_dim": 32},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {
        "head_dim": 32,
        "use_sliding_window": True,
        "sliding_window": 13,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def rope_parameters(kind: str, head_dim: int) -> dict[str, Any]:
    """A setting of each rope type in which every parameter matters at lengths below 48."""
    half = head_dim // 2
    settings: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 2.0},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0},
        "longrope": {
            "short_factor": [1.0 + 0.1 * i for i in range(half)],
            "long_factor": [2.0 + 0.3 * i for i in range(half)],
            "factor": 2.0,
            "original_max_position_embeddings": 32,
        },
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    }
    return {"rope_type": kind, "rope_theta": 500.0, **settings[kind]}


ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


@dataclass(frozen=True)
class Case:
    """One checkpoint. Tied and sharded are dealt so that each family and each rope type meets all four pairings."""

    family: str
    rope: str

    @property
    def variant(self) -> int:
        return (list(FAMILIES).index(self.family) + ROPES.index(self.rope)) % 4

    @property
    def tied(self) -> bool:
        return self.variant % 2 == 0

    @property
    def sharded(self) -> bool:
        return self.variant >= 2

    @property
    def name(self) -> str:
        return f"{self.family}-{self.rope}"


CASES = [Case(family, rope) for family in FAMILIES for rope in ROPES]


def make_model(case: Case, **overrides: Any) -> Any:
    """A transformers model with random weights, biases and norms included."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_SHAPE, **FAMILIES[case.family], "tie_word_embeddings": case.tied, **overrides}
    head_dim = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    settings.setdefault("rope_parameters", rope_parameters(case.rope, head_dim))
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.family, **settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def save_model(model: Any, directory: Path, *, sharded: bool) -> Path:
    """As transformers writes it: one file, or an index and many."""
    model.save_pretrained(directory, max_shard_size="40KB" if sharded else "1GB")
    return directory


def load_tiny(directory: Path, group: Group, *, max_model_len: int = MAX_MODEL_LEN) -> tuple[Decoder, KVCache]:
    """Our decoder in float32 with a cache of 48 blocks."""
    config = load_config(directory)
    decoder = load_model(directory, config, dtype=torch.float32, device=CPU, group=group, max_model_len=max_model_len)
    kv = KVCache.allocate(config, group, num_blocks=48, block_size=BLOCK_SIZE, dtype=torch.float32, device=CPU)
    return decoder, kv


def prompts() -> list[torch.Tensor]:
    """Three token sequences of 43, 26 and 11: what the scenario feeds before it goes on greedily."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, VOCAB, (length,), generator=generator) for length in (43, 26, 11)]


SCHEDULE = (
    (40, 0, 0),  # a whole prefill
    (0, 10, 0),  # a first chunk
    (1, 13, 5),  # decode beside a second chunk with cached prefix and another's first chunk
    (1, 1, 5),
    (1, 1, 1),  # decode alone
    (0, 1, 0),  # decode of one
)
"""Tokens that each of the three sequences brings, step by step."""


class Scenario:
    """Runs SCHEDULE, then greedy steps, through paged blocks with shuffled ids."""

    def __init__(self, decoder: Decoder, kv: KVCache) -> None:
        self._decoder, self._kv = decoder, kv
        order = torch.randperm(kv.num_blocks, generator=torch.Generator().manual_seed(5)).tolist()
        self._blocks = [order[0:16], order[16:32], order[32:48]]
        self._done = [0, 0, 0]
        self.tokens = [prompt.tolist() for prompt in prompts()]
        self.logits: list[list[torch.Tensor]] = [[], [], []]

    def run(self, share: Callable[[list[int] | None], list[int]] = lambda tokens: tokens or []) -> "Scenario":
        """`share` gives every rank what rank 0 chose. `logits` fills up on rank 0 alone."""
        for counts in SCHEDULE:
            self._step(counts)
        for _ in range(GREEDY_TOKENS):
            rows = [rows[-1] for rows in self.logits if rows]
            chosen = share([int(row[-1].argmax()) for row in rows] if rows else None)
            for tokens, token in zip(self.tokens, chosen, strict=True):
                tokens.append(token)
            self._step((1, 1, 1))
        return self

    def _step(self, counts: tuple[int, int, int]) -> None:
        active = [index for index, count in enumerate(counts) if count]
        slices = [SequenceSlice(self._done[i], counts[i], self._blocks[i]) for i in active]
        meta = BatchMeta.build(slices, block_size=BLOCK_SIZE, device=CPU)
        ids = [token for i in active for token in self.tokens[i][self._done[i] : self._done[i] + counts[i]]]
        hidden = self._decoder.forward(torch.tensor(ids), meta, self._kv)
        logits = self._decoder.logits(hidden)
        for index, start, length in zip(active, meta.query_starts, meta.query_lens, strict=True):
            self._done[index] += length
            if logits is not None:
                self.logits[index].append(logits[start : start + length].clone())
