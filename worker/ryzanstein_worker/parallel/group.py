"""The ranks of one tensor-parallel group and how they meet: on one machine, or across several pods.

Knows shared memory and torch.distributed, and nothing of models or requests. A group of one opens nothing.
"""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # torch forgets __all__

from ryzanstein_worker.parallel.meter import NO_METER, Meter
from ryzanstein_worker.parallel.shared_memory import PeerLostError, SharedMemory, is_supported

Backend = Literal["shared_memory", "gloo", "nccl"]

__all__ = ["SINGLE", "Across", "Backend", "Group", "PeerLostError"]


@dataclass(frozen=True, slots=True)
class Across:
    """How the ranks of several pods find each other: a table that all can ask, and the interface to be found at."""

    store: Store
    interface: str


@dataclass(frozen=True, slots=True)
class Group:
    """This process' place among the ranks that hold one copy of the model together."""

    rank: int = 0
    size: int = 1
    shared_memory: SharedMemory | None = field(default=None, compare=False, repr=False)  # None: torch.distributed
    across: Across | None = field(default=None, compare=False, repr=False)  # held, for torch does not keep the store
    meter: Meter = field(default=NO_METER, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not in a group of {self.size}")

    @classmethod
    def join(
        cls,
        rank: int,
        size: int,
        *,
        store_path: Path,
        device: torch.device,
        timeout_seconds: float,
        backend: Backend | None = None,
        across: Across | None = None,
        meter: Meter = NO_METER,
    ) -> "Group":
        """Meet the other ranks at `store_path`, a name in a directory that is private to this start of the group, or
        through `across`.

        CUDA uses NCCL; CPU shared memory, or gloo over loopback where shared memory is not supported, or gloo over the
        pods' network. `timeout_seconds` bounds the meeting and every later collective. A process joins one group in
        its life. `meter` is told of every collective. Raises PeerLostError if not all ranks came in time.
        """
        if size == 1:
            return cls(rank, size)
        if backend is None:
            in_memory = across is None and is_supported(size)
            backend = "nccl" if device.type == "cuda" else "shared_memory" if in_memory else "gloo"
        if backend == "shared_memory":
            return cls(rank, size, SharedMemory(store_path, rank, size, timeout_seconds=timeout_seconds), meter=meter)
        # By its name: gloo would otherwise listen on whatever address the host name resolves to.
        os.environ["GLOO_SOCKET_IFNAME"] = across.interface if across is not None else "lo"
        if across is not None:
            os.environ["NCCL_SOCKET_IFNAME"] = f"={across.interface}"  # "=": this one and no other of that prefix
        store = across.store if across is not None else dist.FileStore(str(store_path), size)  # type: ignore[attr-defined]  # torch forgets __all__
        try:
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=device if backend == "nccl" else None,
            )
        except RuntimeError as error:
            raise PeerLostError(f"rank {rank} could not meet the other ranks in {timeout_seconds:g} s") from error
        return cls(rank, size, across=across, meter=meter)

    def close(self) -> None:
        """Leave the group in good order. Does not wait for the others; for a group of one it does nothing."""
        if self.shared_memory is not None:
            self.shared_memory.close()
        elif self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


SINGLE = Group()
"""The group of one."""
