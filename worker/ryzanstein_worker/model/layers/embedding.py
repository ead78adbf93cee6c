"""The vocabulary dealt to the ranks: token embedding and output head, each rank an equal run of rows.

A vocabulary that does not divide is padded with rows of zeros, which `logits` cuts off again.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ryzanstein_worker.model.layers.linear import Shard
from ryzanstein_worker.model.partition import padded_vocab
from ryzanstein_worker.parallel.collectives import all_reduce, gather_vocab
from ryzanstein_worker.parallel.group import Group


class VocabParallel(nn.Module):
    """A [vocab, D] matrix of which this rank holds some rows; serves as embedding, as output head, or as both."""

    def __init__(
        self, name: str, vocab_size: int, dim: int, group: Group, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self._name, self._vocab_size, self._group = name, vocab_size, group
        rows = padded_vocab(vocab_size, group.size) // group.size
        self._first = group.rank * rows
        self.weight = nn.Parameter(torch.zeros(rows, dim, dtype=dtype, device=device), requires_grad=False)

    def embed(self, token_ids_T: torch.Tensor) -> torch.Tensor:
        """[T, D] on every rank. An id outside the vocabulary is the caller's fault and undefined."""
        if self._group.size == 1:
            return F.embedding(token_ids_T, self.weight)
        local_T = token_ids_T - self._first
        mine_T = (local_T >= 0) & (local_T < len(self.weight))
        out_TD = F.embedding(local_T.where(mine_T, 0), self.weight)
        return all_reduce(out_TD.mul_(mine_T[:, None]), self._group)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor | None:
        """[N, vocab] on rank 0, None elsewhere."""
        logits_NV = gather_vocab(F.linear(hidden_ND, self.weight), self._group)
        return None if logits_NV is None else logits_NV[:, : self._vocab_size]

    def shards(self) -> Iterator[Shard]:
        rows, dim = self.weight.shape
        present = max(0, min(rows, self._vocab_size - self._first))
        yield Shard(self._name, (self._vocab_size, dim), self.weight.data[:present], start=self._first)
