"""Grouped-query self-attention over the paged cache (arXiv 2305.13245), with packed q, k and v.

Shape letters: T tokens, N query heads, K kv heads (both this rank's), H head size, D hidden size.
"""

from collections.abc import Iterator

import torch
from torch import nn

from ryzanstein_worker.kernels.kv_store import store_kv
from ryzanstein_worker.kernels.paged_attention import AttentionPlan, paged_attention
from ryzanstein_worker.kernels.rms_norm import rms_norm
from ryzanstein_worker.kernels.rope import rope
from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.layers.linear import ColumnParallelLinear, Part, RowParallelLinear, Shard, parameter
from ryzanstein_worker.model.partition import first_kv_head, local_heads, local_kv_heads
from ryzanstein_worker.parallel.group import Group


class Attention(nn.Module):
    """One layer's attention. `name` is its prefix in the checkpoint."""

    def __init__(
        self, name: str, config: ModelConfig, group: Group, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._name, self._eps, self._head_dim = name, config.rms_norm_eps, config.head_dim
        self._heads, self._kv_heads = local_heads(config, group), local_kv_heads(config, group)
        self.qkv_proj = ColumnParallelLinear(
            _qkv_parts(name, config, group), config.hidden_size, bias=config.qkv_bias, dtype=dtype, device=device
        )
        self.o_proj = RowParallelLinear(
            f"{name}.o_proj",
            config.num_attention_heads * config.head_dim,
            config.hidden_size,
            group,
            bias=config.o_bias,
            dtype=dtype,
            device=device,
        )
        self.q_norm = parameter(config.head_dim, dtype=dtype, device=device) if config.qk_norm else None
        self.k_norm = parameter(config.head_dim, dtype=dtype, device=device) if config.qk_norm else None

    def forward(
        self,
        x_TD: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        k_PSKH: torch.Tensor,
        v_PSKH: torch.Tensor,
        slots_T: torch.Tensor,
        plan: AttentionPlan,
    ) -> torch.Tensor:
        """[T, D]; stores the step's keys and values on the way."""
        heads, kv_heads = self._heads, self._kv_heads
        qkv_TMH = self.qkv_proj.forward(x_TD).view(len(x_TD), heads + 2 * kv_heads, self._head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q_TNH = rms_norm(qkv_TMH[:, :heads], self.q_norm, self._eps)
            k_TKH = rms_norm(qkv_TMH[:, heads : heads + kv_heads], self.k_norm, self._eps)
            qk_TMH = torch.cat((q_TNH, k_TKH), dim=1)
        else:
            qk_TMH = qkv_TMH[:, : heads + kv_heads]
        qk_TMH = rope(qk_TMH, *cos_sin)
        store_kv(qk_TMH[:, heads:], qkv_TMH[:, heads + kv_heads :], k_PSKH, v_PSKH, slots_T)
        out_TNH = paged_attention(qk_TMH[:, :heads], k_PSKH, v_PSKH, plan)
        return self.o_proj.forward(out_TNH.flatten(1))

    def shards(self) -> Iterator[Shard]:
        yield from self.qkv_proj.shards()
        yield from self.o_proj.shards()
        if self.q_norm is not None and self.k_norm is not None:
            yield Shard(f"{self._name}.q_norm.weight", (self._head_dim,), self.q_norm.data)
            yield Shard(f"{self._name}.k_norm.weight", (self._head_dim,), self.k_norm.data)


def _qkv_parts(name: str, config: ModelConfig, group: Group) -> list[Part]:
    head_dim = config.head_dim
    heads, kv_heads = local_heads(config, group), local_kv_heads(config, group)
    q = Part(f"{name}.q_proj", config.num_attention_heads * head_dim, group.rank * heads * head_dim, heads * head_dim)
    start, length = first_kv_head(config, group) * head_dim, kv_heads * head_dim
    kv = [Part(f"{name}.{proj}", config.num_key_value_heads * head_dim, start, length) for proj in ("k_proj", "v_proj")]
    return [q, *kv]
