"""Who is in the group and who may come in, as its head sees it. Pure: names, numbers and sentences, no connections."""

from enum import Enum
from typing import Generic, TypeVar

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.identity import misfit
from ryzanstein_worker.engine.node_frames import Attach, FromMember, Join

Member = TypeVar("Member")
Wire = TypeVar("Wire")


class Phase(Enum):
    """Of one start of a group."""

    GATHERING = 0
    STARTED = 1  # the epoch is drawn
    ENDED = 2


class Roll(Generic[Member, Wire]):
    """`members` by node rank, `wires` by rank: of the other pods alone."""

    def __init__(self, config: EngineConfig, settings: Join) -> None:
        """`settings` are the head's own."""
        self.phase = Phase.GATHERING
        self.epoch = ""
        self.members: dict[int, Member] = {}
        self.wires: dict[int, Wire] = {}
        self._config = config
        self._settings = settings
        self._turned_away: dict[int, str] = {}

    @property
    def is_complete(self) -> bool:
        return len(self.members) == self._config.nnodes - 1

    @property
    def is_wired(self) -> bool:
        return len(self.wires) == self._config.tensor_parallel_size - self._config.ranks_per_node

    def start(self, epoch: str) -> None:
        self.phase, self.epoch = Phase.STARTED, epoch

    def enter(self, node_rank: int, member: Member) -> Member | None:
        """Returns the one that had the place, which is to go."""
        older = self.members.pop(node_rank, None)
        self.members[node_rank] = member
        self._turned_away.pop(node_rank, None)
        return older

    def objection(self, first: FromMember) -> str | None:
        """Why a connection that begins so does not belong here; None if it does."""
        if isinstance(first, Join) and first.master_addr != self._settings.master_addr:
            return f"Group {first.master_addr} is not at this address, which {self._settings.master_addr} has now."
        if isinstance(first, Join):
            sentence = misfit(self._settings, first)
            if sentence is not None:
                self._turned_away[first.node_rank] = sentence
            return sentence
        if not isinstance(first, Attach):
            return "A connection begins with Join or Attach."
        if self.phase is not Phase.STARTED or first.epoch != self.epoch:
            return f"Epoch {first.epoch} of the group is over."
        if first.rank in self.wires or self._config.node_of(first.rank) not in self.members:
            return f"Rank {first.rank} is attached already, or no other pod's."
        return None

    def is_for_ever(self, first: FromMember) -> bool:
        """Whether an objection would be the same at every try: an old epoch and an old address are not."""
        return isinstance(first, Join) and first.master_addr == self._settings.master_addr

    def absent(self, seconds: float) -> str:
        """The sentence for a group that did not come together."""
        absent = [node for node in range(1, self._config.nnodes) if node not in self.members]
        if not absent:
            return f"the pods of the group came, but not all their ranks connected within {seconds:g} s"
        told = [self._turned_away[node] for node in absent if node in self._turned_away]
        names = ", ".join(str(node) for node in absent)
        return " ".join([f"node rank {names} did not come within {seconds:g} s.", *told]).rstrip(".")
