"""What the parent and the ranks say to one another. msgspec structs only; parallel/messages.py carries them.

Start: each rank sends Loaded, the parent answers each with Begin, each rank sends Ready. A rank that cannot, sends
Refused. Then the parent sends AddRequest and Abort to rank 0 and gets StepReport; rank 0 sends one StepFrame a step to
every other rank. The end of the parent's stream tells a rank to go.
"""

import msgspec

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.request import Abort, AddRequest, TokenOutput
from ryzanstein_worker.engine.status import EngineStats, ModelInfo
from ryzanstein_worker.parallel.seal import Seal


class RankLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """A rank's one argument, as JSON. The file descriptors are inherited."""

    config: EngineConfig
    rank: int
    epoch: str  # names this start of the group; a frame of another epoch is refused
    parent_pid: int
    store_path: str
    heartbeat_fd: int
    ledger_fd: int
    spawned: float  # time.monotonic() of the parent: one clock for all processes of a machine
    parent_fd: int
    peer_fds: list[int]  # rank 0: one for each other rank; others: the one to rank 0
    seals_fd: int | None = None  # holds a PeerSeals; None: every peer is of this pod
    store_fd: int | None = None  # to the group's table; None: every peer is of this pod
    interface: str = "lo"  # of the network that the group's pods share


class PeerSeals(msgspec.Struct, frozen=True, kw_only=True):
    """The seals of `RankLaunch.peer_fds`, None for a peer of this pod. Through memory, for arguments can be read."""

    seals: list[Seal | None]


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The weights are in place, and this many blocks of KV cache fit into the rank's memory beside them."""

    rank: int
    num_kv_blocks: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The KV cache is allocated and a step has been run to warm up."""

    rank: int
    info: ModelInfo


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Only the user can mend it: the sentence of a ConfigError."""

    rank: int
    sentence: str


class StepReport(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """What one turn of rank 0 gave."""

    outputs: list[TokenOutput]
    stats: EngineStats


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag="begin"):
    """Every rank has loaded: use this many blocks, the least that any rank has room for."""

    num_kv_blocks: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step. Tokens of its sampling sequences in order, None where one failed; or, where the step
    itself ran out of memory, the number of the sequence to fail, with nothing computed for the others."""

    token_ids: list[int | None] | None = None
    failed: int | None = None


class StepFrame(msgspec.Struct, frozen=True, kw_only=True):
    """All that changes a scheduler: book the last step's outcome, then these, then compare hashes and take a step."""

    epoch: str
    sequence: int
    outcome: Outcome | None  # None: the last turn had no step
    aborts: list[str]
    adds: list[AddRequest]
    state_hash: int  # of rank 0's scheduler, after all of the above


FromParent = Begin | AddRequest | Abort
FromRank = Loaded | Ready | Refused | StepReport
