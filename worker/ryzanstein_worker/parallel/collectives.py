"""What the ranks of a group say to one another in a step. In a group of one each of these is free.

Every call is made by all ranks in the same order. A peer that dies or is late past the group's deadline ends the call
with PeerLostError; the tensors are then undefined.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ryzanstein_worker.parallel.group import Group, PeerLostError


def all_reduce(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Sum of every rank's `x` (one shape and floating dtype), in place; returns `x`."""
    if group.size > 1:
        with _peers(group):
            dist.all_reduce(x)
    return x


def gather_vocab(logits_NV: torch.Tensor, group: Group) -> torch.Tensor | None:
    """Each rank's equal share of the vocabulary, joined in rank order: [N, V * size] on rank 0, None elsewhere."""
    if group.size == 1:
        return logits_NV
    logits_NV = logits_NV.contiguous()
    shares = [torch.empty_like(logits_NV) for _ in range(group.size)] if group.rank == 0 else None
    with _peers(group):
        dist.gather(logits_NV, shares, dst=0)
    return torch.cat(shares, dim=-1) if shares is not None else None


def broadcast_ints(values: list[int] | None, count: int, group: Group, device: torch.device) -> list[int]:
    """Rank 0's `values` on every rank. `count` is their number, known to all; other ranks pass None."""
    if group.size == 1:
        assert values is not None
        return values
    if group.rank == 0:
        assert values is not None
        assert len(values) == count
        message_N = torch.tensor(values, dtype=torch.int64, device=device)
    else:
        message_N = torch.empty(count, dtype=torch.int64, device=device)
    with _peers(group):
        dist.broadcast(message_N, src=0)
    return message_N.tolist()


def barrier(group: Group, device: torch.device) -> None:
    """Returns when every rank has come here."""
    all_reduce(torch.zeros(1, device=device), group)


@contextmanager
def _peers(group: Group) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"rank {group.rank} lost its peers in a collective: {error}") from error
