"""What the pods of a group say to one another, parent to parent. msgspec structs only; sealed (parallel/seal.py).

A member connects to the head (node rank 0) and sends Join. When all have come, the head draws an epoch and sends Start.
The member then opens one connection more for each of its ranks, with Attach, which the rank inherits: rank 0's step
frames come on it. From then on the first connection carries signs of life both ways, what the ranks and rank 0's
engine say while the group starts (frames.py), and the ranks' questions to the table (parallel/keyvalue.py). End is the
head's last word; a connection that ends without it is a loss.
"""

import msgspec

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.frames import FromParent, FromRank
from ryzanstein_worker.engine.heartbeat import RankState
from ryzanstein_worker.engine.verdict import Blame
from ryzanstein_worker.parallel.keyvalue import Answer, Ask


class Join(msgspec.Struct, frozen=True, kw_only=True, tag="join"):
    """A pod wants into the group; all but its place must be the head's own."""

    node_rank: int
    master_addr: str  # names the group: an address may have been another's a moment ago
    revision: str  # of the pod's template; "" where unknown
    model: str  # its identity (identity.py)
    config: EngineConfig


class Attach(msgspec.Struct, frozen=True, kw_only=True, tag="attach"):
    """This connection is for a rank's step frames."""

    epoch: str
    rank: int


class RankSign(msgspec.Struct, frozen=True, kw_only=True):
    """A rank's heartbeat, as its pod's shared memory shows it."""

    rank: int
    age_seconds: float
    beats: int
    state: RankState


class Signs(msgspec.Struct, frozen=True, kw_only=True, tag="signs"):
    """The pod lives, and so do its ranks; none before they run."""

    ranks: list[RankSign]


class FromRanks(msgspec.Struct, frozen=True, kw_only=True, tag="from_rank"):
    """What a rank said to its parent."""

    rank: int
    message: FromRank


class RankAsk(msgspec.Struct, frozen=True, kw_only=True, tag="rank_ask"):
    """A rank's question to the table."""

    rank: int
    ask: Ask


class Leaving(msgspec.Struct, frozen=True, kw_only=True, tag="leaving"):
    """The pod was told to stop: the group should drain. `hurry`: it was told twice."""

    hurry: bool = False


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """Evidence of a loss; the pod's ranks have ended."""

    blame: Blame
    rank: int | None
    reason: str
    age: float


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The rank is attached."""


class TurnedAway(msgspec.Struct, frozen=True, kw_only=True, tag="turned_away"):
    """The pod or rank does not belong here. `final`: only the user can mend it."""

    sentence: str
    final: bool


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """All pods have come."""

    epoch: str


class Sign(msgspec.Struct, frozen=True, kw_only=True, tag="sign"):
    """The head lives."""


class ToRank(msgspec.Struct, frozen=True, kw_only=True, tag="to_rank"):
    """What the engine says to a rank."""

    rank: int
    message: FromParent


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="rank_answer"):
    """The table's answer to a rank's question."""

    rank: int
    answer: Answer


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The group ends, everywhere and now. `code` is for the process: 0 after a drain."""

    code: int
    rank: int | None
    reason: str


FromMember = Join | Attach | Signs | FromRanks | RankAsk | Leaving | Lost
FromHead = Welcome | TurnedAway | Start | Sign | ToRank | RankAnswer | End
