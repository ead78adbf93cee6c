"""One step's batch as tensors: which tokens stand where, and where their keys and values lie.

Built by the engine's runner from plain ints; the model reads it. Knows nothing of requests, scheduling or layers.
Shape letters: T tokens of the step, B sequences, P blocks of the longest sequence, S slots a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """A sequence's part in a step: `num_new` tokens after the `num_computed` whose keys and values are stored."""

    num_computed: int
    num_new: int
    block_ids: Sequence[int]  # in order; at least ceil((num_computed + num_new) / block_size)


@dataclass(frozen=True, slots=True)
class BatchMeta:
    """The step's tokens lie flat, sequence after sequence, in the order that `build` was given."""

    positions_T: torch.Tensor  # int64, position of each token in its sequence
    slot_mapping_T: torch.Tensor  # int64, block id * block_size + offset: where the token's key and value go
    block_tables_BP: torch.Tensor  # int64, padded with 0
    last_rows_B: torch.Tensor  # int64, flat index of each sequence's last token: the rows to take logits of
    query_starts: tuple[int, ...]  # flat index of each sequence's first token
    query_lens: tuple[int, ...]  # new tokens of each sequence, >= 1
    context_lens: tuple[int, ...]  # computed + new tokens of each sequence
    block_size: int

    @property
    def decode_only(self) -> bool:
        """Every sequence brings exactly one token."""
        return len(self.positions_T) == len(self.query_lens)

    @classmethod
    def build(cls, sequences: Sequence[SequenceSlice], *, block_size: int, device: torch.device) -> "BatchMeta":
        """Pure. Raises ValueError for an empty step, a sequence without new tokens or with too few blocks."""
        _check(sequences, block_size)
        lens = np.array([s.num_new for s in sequences])
        ends = lens.cumsum()
        computed = np.array([s.num_computed for s in sequences])
        contexts = computed + lens
        tables_BP = np.zeros((len(sequences), int(-(-contexts.max() // block_size))), dtype=np.int64)
        for row, sequence, context in zip(tables_BP, sequences, contexts.tolist(), strict=True):
            used = -(-context // block_size)
            row[:used] = sequence.block_ids[:used]
        rows_T = np.repeat(np.arange(len(sequences)), lens)
        positions_T = np.arange(int(ends[-1])) + (computed - (ends - lens))[rows_T]
        slots_T = tables_BP[rows_T, positions_T // block_size] * block_size + positions_T % block_size
        return cls(
            positions_T=torch.from_numpy(positions_T).to(device),
            slot_mapping_T=torch.from_numpy(slots_T).to(device),
            block_tables_BP=torch.from_numpy(tables_BP).to(device),
            last_rows_B=torch.from_numpy(ends - 1).to(device),
            query_starts=tuple((ends - lens).tolist()),
            query_lens=tuple(lens.tolist()),
            context_lens=tuple(contexts.tolist()),
            block_size=block_size,
        )


def _check(sequences: Sequence[SequenceSlice], block_size: int) -> None:
    if not sequences:
        raise ValueError("a step needs at least one sequence")
    for index, sequence in enumerate(sequences):
        if sequence.num_new < 1 or sequence.num_computed < 0:
            raise ValueError(f"sequence {index} brings {sequence.num_new} tokens after {sequence.num_computed}")
        if len(sequence.block_ids) * block_size < sequence.num_computed + sequence.num_new:
            raise ValueError(f"sequence {index} has {len(sequence.block_ids)} blocks, too few for its tokens")
