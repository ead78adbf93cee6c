"""The ranks of one tensor-parallel group and how they meet.

Knows torch.distributed and nothing of models or requests. A group of one opens no socket and no store.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


class PeerLostError(RuntimeError):
    """A peer died, froze past the deadline or never came; the group is broken and this process must end."""


@dataclass(frozen=True, slots=True)
class Group:
    """This process' place among the ranks that hold one copy of the model together."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not in a group of {self.size}")

    @classmethod
    def join(cls, rank: int, size: int, *, store_path: Path, device: torch.device, timeout_seconds: float) -> "Group":
        """Meet the other ranks through a file in a private directory; gloo over loopback on CPU, NCCL on CUDA.

        `timeout_seconds` bounds the meeting and every later collective. A process joins one group in its life.
        Raises PeerLostError if not all ranks came in time.
        """
        group = cls(rank, size)
        if size == 1:
            return group
        # Ranks of one pod only: gloo would otherwise listen on whatever address the host name resolves to.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        try:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.FileStore(str(store_path), size),  # type: ignore[attr-defined]  # torch forgets __all__
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=device if device.type == "cuda" else None,
            )
        except RuntimeError as error:
            raise PeerLostError(f"rank {rank} could not meet the other ranks within {timeout_seconds:g} s") from error
        return group

    def close(self) -> None:
        """Leave the group in good order. Does not wait for the others; for a group of one it does nothing."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


SINGLE = Group()
"""The group of one."""
