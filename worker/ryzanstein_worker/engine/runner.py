"""One rank's part of a step: the scheduler's integers to tensors, through the decoder, to tokens on rank 0.

Knows tensors and the model's interface; decides nothing about which tokens to compute.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from ryzanstein_worker.engine.sampler import Sampled, SamplingRow, sample
from ryzanstein_worker.engine.sequence import Sequence, Step
from ryzanstein_worker.model.kv_cache import KVCache
from ryzanstein_worker.model.meta import BatchMeta, SequenceSlice
from ryzanstein_worker.parallel.group import PeerLostError

logger = logging.getLogger(__name__)


class StepOutOfMemoryError(Exception):
    """The device had no memory for this step; nothing of it counts, and the cache of others is unharmed."""


class Model(Protocol):
    """What the runner asks of a decoder (model/decoder.py)."""

    device: torch.device

    def forward(
        self, token_ids_T: torch.Tensor, meta: BatchMeta, kv: KVCache, on_layer: Callable[[], None]
    ) -> torch.Tensor: ...

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor | None: ...


class Runner:
    """Holds the model and its KV cache. `on_layer` is called at each layer: a long step is progress."""

    def __init__(self, model: Model, kv: KVCache, *, on_layer: Callable[[], None]) -> None:
        self._model = model
        self._kv = kv
        self._on_layer = on_layer

    def run(self, step: Step) -> list[Sampled]:
        """Compute the step; on rank 0 a token for each of `step.sampling`, elsewhere nothing.

        Raises StepOutOfMemoryError, PeerLostError.
        """
        try:
            logits_NV = self._forward(step)
        except PeerLostError:
            raise
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()
            raise StepOutOfMemoryError from error
        self._on_layer()
        return [] if logits_NV is None else sample_each(logits_NV, [_row(sequence) for sequence in step.sampling])

    def check_device(self) -> None:
        """Raise if the device computes nothing any more: after some errors CUDA fails every call that follows."""
        torch.ones(1, device=self._model.device).sum().item()

    def warm_up(self, lengths: list[int]) -> None:
        """Run one step of new sequences of these lengths, then one more token of each, into the cache's first blocks.

        Only before any request: what it writes there belongs to nobody. Allocates what a step allocates at its peak.
        """
        for computed, counts in ((0, lengths), (1, [1] * len(lengths))):
            slices = [
                SequenceSlice(num_computed=computed, num_new=count, block_ids=range(self._kv.num_blocks))
                for count in counts
            ]
            meta = BatchMeta.build(slices, block_size=self._kv.block_size, device=self._model.device)
            token_ids_T = torch.zeros(sum(counts), dtype=torch.int64, device=self._model.device)
            hidden_TD = self._model.forward(token_ids_T, meta, self._kv, self._on_layer)
            logits_NV = self._model.logits(hidden_TD[meta.last_rows_B])
            if logits_NV is not None:
                logits_NV.float().argmax(dim=-1).tolist()  # waits for the device

    def _forward(self, step: Step) -> torch.Tensor | None:
        """Logits [N, V] of the sampling sequences' last tokens on rank 0; None elsewhere, or if none samples."""
        slices = [
            SequenceSlice(num_computed=part.start, num_new=part.count, block_ids=part.sequence.block_ids)
            for part in step.slices
        ]
        token_ids = [
            token for part in step.slices for token in part.sequence.token_ids[part.start : part.start + part.count]
        ]
        device = self._model.device
        meta = BatchMeta.build(slices, block_size=self._kv.block_size, device=device)
        hidden_TD = self._model.forward(torch.tensor(token_ids, device=device), meta, self._kv, self._on_layer)
        sampling = [index for index, part in enumerate(step.slices) if part.samples]
        if not sampling:
            return None
        return self._model.logits(hidden_TD[meta.last_rows_B[sampling]])


def sample_each(logits_NV: torch.Tensor, rows: list[SamplingRow]) -> list[Sampled]:
    """All rows at once; if that raises, each alone, so that one row's fault is its own."""
    try:
        return sample(logits_NV, rows)
    except Exception:
        logger.exception("sampling a batch failed; trying its rows one by one")
    sampled: list[Sampled] = []
    for n, row in enumerate(rows):
        try:
            sampled += sample(logits_NV[n : n + 1], [row])
        except Exception:
            logger.exception("sampling failed for one request")
            sampled.append(Sampled(None))
    return sampled


def _row(sequence: Sequence) -> SamplingRow:
    output_ids = sequence.token_ids[sequence.num_prompt :]
    return SamplingRow(sequence.request.sampling, position=len(sequence.token_ids), output_ids=output_ids)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # CUDA has a class of its own; the CPU allocator only a text.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
