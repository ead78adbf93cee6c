"""The gated MLP: packed gate and up, activation, down."""

from collections.abc import Iterator

import torch
from torch import nn

from ryzanstein_worker.kernels.activation import ACTIVATIONS, act_and_mul
from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.layers.linear import ColumnParallelLinear, Part, RowParallelLinear, Shard
from ryzanstein_worker.parallel.group import Group


class MLP(nn.Module):
    """One layer's MLP. `name` is its prefix in the checkpoint."""

    def __init__(
        self, name: str, config: ModelConfig, group: Group, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        channels = config.intermediate_size // group.size
        self._act = ACTIVATIONS[config.hidden_act]
        self.gate_up_proj = ColumnParallelLinear(
            [
                Part(f"{name}.{proj}", config.intermediate_size, group.rank * channels, channels)
                for proj in ("gate_proj", "up_proj")
            ],
            config.hidden_size,
            bias=config.mlp_bias,
            dtype=dtype,
            device=device,
        )
        self.down_proj = RowParallelLinear(
            f"{name}.down_proj",
            config.intermediate_size,
            config.hidden_size,
            group,
            bias=config.mlp_bias,
            dtype=dtype,
            device=device,
        )

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """[T, D]."""
        return self.down_proj.forward(act_and_mul(self.gate_up_proj.forward(x_TD), self._act))

    def shards(self) -> Iterator[Shard]:
        yield from self.gate_up_proj.shards()
        yield from self.down_proj.shards()
