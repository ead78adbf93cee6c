"""The decoder that all supported families share, built from a ModelConfig.

Knows shapes and layers; nothing of files (weights.py), requests or sampling.
Shape letters: T tokens of the step, D hidden size, N rows whose logits are wanted, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ryzanstein_worker.kernels.paged_attention import AttentionPlan
from ryzanstein_worker.kernels.rms_norm import add_rms_norm, rms_norm
from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.kv_cache import KVCache
from ryzanstein_worker.model.layers.attention import Attention
from ryzanstein_worker.model.layers.embedding import VocabParallel
from ryzanstein_worker.model.layers.linear import Shard, parameter
from ryzanstein_worker.model.layers.mlp import MLP
from ryzanstein_worker.model.layers.rotary import Rotary
from ryzanstein_worker.model.meta import BatchMeta
from ryzanstein_worker.parallel.group import Group


class DecoderLayer(nn.Module):
    """Attention and MLP, each after a norm. The residual sum is fused with the norm that follows it."""

    def __init__(
        self, name: str, config: ModelConfig, group: Group, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._name, self._eps = name, config.rms_norm_eps
        self.self_attn = Attention(f"{name}.self_attn", config, group, dtype=dtype, device=device)
        self.mlp = MLP(f"{name}.mlp", config, group, dtype=dtype, device=device)
        self.input_norm = parameter(config.hidden_size, dtype=dtype, device=device)
        self.post_attention_norm = parameter(config.hidden_size, dtype=dtype, device=device)

    def forward(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor | None,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        cache: tuple[torch.Tensor, torch.Tensor],
        slots_T: torch.Tensor,
        plan: AttentionPlan,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(MLP output, residual before it), both [T, D]: the next norm adds them up."""
        if residual_TD is None:
            h_TD, residual_TD = rms_norm(x_TD, self.input_norm, self._eps), x_TD
        else:
            h_TD, residual_TD = add_rms_norm(x_TD, residual_TD, self.input_norm, self._eps)
        h_TD = self.self_attn.forward(h_TD, cos_sin, *cache, slots_T, plan)
        h_TD, residual_TD = add_rms_norm(h_TD, residual_TD, self.post_attention_norm, self._eps)
        return self.mlp.forward(h_TD), residual_TD

    def shards(self) -> Iterator[Shard]:
        yield from self.self_attn.shards()
        yield from self.mlp.shards()
        for tensor, norm in (
            ("input_layernorm", self.input_norm),
            ("post_attention_layernorm", self.post_attention_norm),
        ):
            yield Shard(f"{self._name}.{tensor}.weight", tuple(norm.shape), norm.data)


class Decoder(nn.Module):
    """This rank's share of a model. All ranks call `forward` and `logits` with equal arguments, in equal order."""

    def __init__(
        self, config: ModelConfig, group: Group, *, dtype: torch.dtype, device: torch.device, max_model_len: int
    ) -> None:
        super().__init__()
        self.config, self.dtype, self.device = config, dtype, device
        vocab = (config.vocab_size, config.hidden_size, group)
        self.embed_tokens = VocabParallel("model.embed_tokens.weight", *vocab, dtype=dtype, device=device)
        self._layers = tuple(
            DecoderLayer(f"model.layers.{index}", config, group, dtype=dtype, device=device)
            for index in range(config.num_hidden_layers)
        )
        self.layers = nn.ModuleList(self._layers)
        self.norm = parameter(config.hidden_size, dtype=dtype, device=device)
        self.lm_head = (
            self.embed_tokens
            if config.tie_word_embeddings
            else VocabParallel("lm_head.weight", *vocab, dtype=dtype, device=device)
        )
        self._rotary = Rotary(config, max_model_len=max_model_len, device=device)

    @torch.inference_mode()
    def forward(
        self, token_ids_T: torch.Tensor, meta: BatchMeta, kv: KVCache, on_layer: Callable[[], None] = lambda: None
    ) -> torch.Tensor:
        """Normed hidden states [T, D] of the step's tokens (int64 ids); their keys and values are stored in `kv`.

        `on_layer` is called after each layer: a long prefill is progress. Raises PeerLostError.
        """
        plans = self._plans(meta)
        cos_sin = self._rotary.cos_sin(meta.positions_T, self.dtype)
        x_TD = self.embed_tokens.embed(token_ids_T)
        residual_TD: torch.Tensor | None = None
        for index, (layer, window) in enumerate(zip(self._layers, self.config.sliding_windows, strict=True)):
            cache = kv.k_LPSKH[index], kv.v_LPSKH[index]
            x_TD, residual_TD = layer.forward(x_TD, residual_TD, cos_sin, cache, meta.slot_mapping_T, plans[window])
            on_layer()
        assert residual_TD is not None
        return add_rms_norm(x_TD, residual_TD, self.norm, self.config.rms_norm_eps)[0]

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor | None:
        """Over the whole vocabulary, [N, V] in the model's dtype, on rank 0; None elsewhere. Raises PeerLostError."""
        return self.lm_head.logits(hidden_ND)

    def shards(self) -> Iterator[Shard]:
        """Every checkpoint tensor this rank needs, each once."""
        yield from self.embed_tokens.shards()
        for layer in self._layers:
            yield from layer.shards()
        yield Shard("model.norm.weight", tuple(self.norm.shape), self.norm.data)
        if self.lm_head is not self.embed_tokens:
            yield from self.lm_head.shards()

    @property
    def num_parameters(self) -> int:
        """Of the whole model, not of this rank's share; tied matrices count once."""
        return sum(math.prod(shard.shape) for shard in self.shards())

    def _plans(self, meta: BatchMeta) -> dict[int | None, AttentionPlan]:
        return {
            window: AttentionPlan.build(
                meta.block_tables_BP,
                meta.query_starts,
                meta.query_lens,
                meta.context_lens,
                block_size=meta.block_size,
                window=window,
                dtype=self.dtype,
            )
            for window in set(self.config.sliding_windows)
        }
