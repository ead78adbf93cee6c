"""Linear layers dealt to the ranks (Megatron, arXiv 1909.08053), each with its own sharding beside it.

A layer says by `shards()` which part of which checkpoint tensor it needs and where it goes; reading is weights.py's.
Weights are [out, in], as in the checkpoint; x is [T, in].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ryzanstein_worker.parallel.collectives import all_reduce
from ryzanstein_worker.parallel.group import Group


@dataclass(frozen=True, slots=True)
class Shard:
    """The part [start, start + length) along `dim` of one checkpoint tensor, and the memory it goes to."""

    name: str
    shape: tuple[int, ...]  # the whole tensor's, as the checkpoint must have it
    into: torch.Tensor  # contiguous; shape of the part
    dim: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint tensor in a packed column-parallel layer: rows [start, start + length) of `rows`."""

    name: str
    rows: int
    start: int
    length: int


def parameter(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Uninitialised memory that the loader fills."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


class ColumnParallelLinear(nn.Module):
    """Each rank computes some of the outputs; several checkpoint tensors lie packed, one below another."""

    def __init__(
        self, parts: Sequence[Part], in_features: int, *, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._parts = tuple(parts)
        rows = sum(part.length for part in parts)
        self.weight = parameter(rows, in_features, dtype=dtype, device=device)
        self.bias = parameter(rows, dtype=dtype, device=device) if bias else None

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        return F.linear(x_TD, self.weight, self.bias)

    def shards(self) -> Iterator[Shard]:
        row = 0
        for part in self._parts:
            rows = slice(row, row + part.length)
            shape = (part.rows, self.weight.shape[1])
            yield Shard(f"{part.name}.weight", shape, self.weight.data[rows], start=part.start)
            if self.bias is not None:
                yield Shard(f"{part.name}.bias", (part.rows,), self.bias.data[rows], start=part.start)
            row += part.length


class RowParallelLinear(nn.Module):
    """Each rank holds some of the inputs; the sums are reduced, so every rank returns the whole output."""

    def __init__(
        self,
        name: str,
        in_features: int,
        out_features: int,
        group: Group,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._name, self._in_features, self._group = name, in_features, group
        self.weight = parameter(out_features, in_features // group.size, dtype=dtype, device=device)
        self.bias = parameter(out_features, dtype=dtype, device=device) if bias else None

    def forward(self, x_TF: torch.Tensor) -> torch.Tensor:
        out_TD = all_reduce(F.linear(x_TF, self.weight), self._group)
        # After the reduction: the bias must be added once, not once a rank.
        return out_TD if self.bias is None else out_TD.add_(self.bias)

    def shards(self) -> Iterator[Shard]:
        out_features, columns = self.weight.shape
        shape = (out_features, self._in_features)
        yield Shard(f"{self._name}.weight", shape, self.weight.data, dim=1, start=self._group.rank * columns)
        if self.bias is not None:
            yield Shard(f"{self._name}.bias", (out_features,), self.bias.data)
