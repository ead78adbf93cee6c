"""What the ranks of a group say to one another in a step. In a group of one each of these is free.

Every call is made by all ranks in the same order. A peer that dies or is late past the group's deadline ends the call
with PeerLostError; the tensors are then undefined. The group's meter is told how long each call took this rank: what it
waits for the others is in it. With NCCL that is the time to hand the work to the device, which goes on without us.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ryzanstein_worker.parallel.group import Group, PeerLostError
from ryzanstein_worker.parallel.shared_memory import CHUNK_BYTES, SharedMemory


def all_reduce(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Sum of every rank's `x` (contiguous, one shape and floating dtype), in place; returns `x`."""
    if group.size == 1:
        return x
    begin = time.monotonic_ns()
    if group.shared_memory is not None:
        for part in _chunks(x):
            _add_up(group.shared_memory.exchange(part), part)
    else:
        with _peers(group):
            dist.all_reduce(x)
    group.meter.collective("all_reduce", time.monotonic_ns() - begin)
    return x


def gather_vocab(logits_NV: torch.Tensor, group: Group) -> torch.Tensor | None:
    """Each rank's equal share of the vocabulary, joined in rank order: [N, V * size] on rank 0, None elsewhere."""
    if group.size == 1:
        return logits_NV
    begin = time.monotonic_ns()
    logits_NV = logits_NV.contiguous()
    shares = [torch.empty_like(logits_NV) for _ in range(group.size)] if group.rank == 0 else None
    if group.shared_memory is not None:
        _gather(group.shared_memory, logits_NV, shares)
    else:
        with _peers(group):
            dist.gather(logits_NV, shares, dst=0)
    group.meter.collective("gather", time.monotonic_ns() - begin)
    return torch.cat(shares, dim=-1) if shares is not None else None


def broadcast_ints(values: list[int] | None, count: int, group: Group, device: torch.device) -> list[int]:
    """Rank 0's `values` on every rank. `count` is their number, known to all; other ranks pass None."""
    if group.rank == 0:
        assert values is not None
        assert len(values) == count
    if group.size == 1:
        return values or []
    begin = time.monotonic_ns()
    message_N = torch.tensor([0] * count if values is None else values, dtype=torch.int64, device=device)
    if group.shared_memory is not None:
        for part in _chunks(message_N):
            part.copy_(group.shared_memory.exchange(part)[0])
    else:
        with _peers(group):
            dist.broadcast(message_N, src=0)
    received: list[int] = message_N.tolist()
    group.meter.collective("broadcast", time.monotonic_ns() - begin)
    return received


def barrier(group: Group, device: torch.device) -> None:
    """Returns when every rank has come here."""
    all_reduce(torch.zeros(1, device=device), group)


def _chunks(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Flat views of at most CHUNK_BYTES."""
    flat, step = x.view(-1), CHUNK_BYTES // x.element_size()
    return tuple(flat[start : start + step] for start in range(0, len(flat), step))


def _add_up(everyone: torch.Tensor, out: torch.Tensor) -> None:
    """In rank order on every rank, so that all get the same bits."""
    if len(everyone) == 2:
        torch.add(everyone[0], everyone[1], out=out)
    else:
        torch.sum(everyone, dim=0, out=out)


def _gather(memory: SharedMemory, mine: torch.Tensor, shares: list[torch.Tensor] | None) -> None:
    parts = [_chunks(share) for share in shares] if shares is not None else []
    for index, part in enumerate(_chunks(mine)):
        everyone = memory.exchange(part)
        for rank, into in enumerate(parts):
            into[index].copy_(everyone[rank])


@contextmanager
def _peers(group: Group) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"rank {group.rank} lost its peers in a collective: {error}") from error
