"""The paged store of keys and values: this rank's share of the kv heads, all layers, a fixed number of blocks.

Which block belongs to whom is the scheduler's knowledge, not this module's.
Shape letters: L layers, P blocks, S slots a block, K kv heads of this rank, H head size.
"""

from dataclasses import dataclass

import torch

from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.partition import local_kv_heads
from ryzanstein_worker.parallel.group import Group


@dataclass(frozen=True, slots=True)
class KVCache:
    """Zero at first: a block that nobody wrote holds nobody's data."""

    k_LPSKH: torch.Tensor
    v_LPSKH: torch.Tensor

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        group: Group,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KVCache":
        """Takes `num_blocks * bytes_per_block(...)` bytes of the device's memory."""
        shape = (config.num_hidden_layers, num_blocks, block_size, local_kv_heads(config, group), config.head_dim)
        return cls(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))

    @property
    def num_blocks(self) -> int:
        return self.k_LPSKH.shape[1]

    @property
    def block_size(self) -> int:
        return self.k_LPSKH.shape[2]


def bytes_per_block(config: ModelConfig, group: Group, dtype: torch.dtype, block_size: int) -> int:
    """Bytes that one block takes on this rank: keys and values of all layers."""
    slots = 2 * config.num_hidden_layers * block_size
    return slots * local_kv_heads(config, group) * config.head_dim * dtype.itemsize
