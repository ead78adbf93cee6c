"""What the engine tells about itself: facts of the model, counters, health, and how it was lost. No torch."""

from dataclasses import dataclass

import msgspec


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that are fixed once the model is loaded."""

    model_type: str
    dtype: str
    device: str
    vocab_size: int
    num_parameters: int  # of the whole model, over all ranks
    max_model_len: int
    block_size: int
    num_kv_blocks: int


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of rank 0's scheduler after its latest step. Totals count from the start of the group."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0  # 0..1: share of blocks held by requests (free cached blocks do not count)
    kv_blocks_free: int = 0  # cached blocks that no request holds are free
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # of those, found
    preemptions: int = 0
    steps: int = 0


@dataclass(frozen=True)
class EngineLoad:
    """What the engine has to do at this moment."""

    running: int
    waiting: int  # every request that was handed to the engine and does not run
    kv_cache_usage: float  # 0..1


@dataclass(frozen=True)
class RankHealth:
    """One rank's heartbeat as shared memory shows it."""

    rank: int
    state: str  # loading | idle | step
    age_seconds: float
    beats: int
    node_rank: int = 0  # the place in the group of the pod that it runs in


@dataclass(frozen=True)
class EngineHealth:
    """`reason` is a sentence; `alive` is False once the group is lost, stopped or without a heartbeat for too long."""

    alive: bool
    reason: str
    ranks: tuple[RankHealth, ...] = ()


@dataclass(frozen=True)
class GroupLost:
    """Why the group of ranks ended. `rank` is the culprit, None where no rank was (the engine was stopped)."""

    rank: int | None
    reason: str


class GroupLostError(Exception):
    """The group of ranks has ended; every request in it is lost and a new group must be started.

    `started` is False for a request that came after the end: it was no part of what happened.
    """

    def __init__(self, lost: GroupLost, *, started: bool = True) -> None:
        super().__init__(lost.reason)
        self.lost = lost
        self.started = started


class EngineBusyError(Exception):
    """max_queued_requests are in the engine already; this one was not started and may go elsewhere."""


EXIT_PEER_LOST = 71
EXIT_DIVERGED = 72
EXIT_OUT_OF_MEMORY = 73
"""Exit codes of a rank, for the supervisor: the first means that the fault is another rank's."""
