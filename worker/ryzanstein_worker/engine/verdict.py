"""Who is to blame for the loss of a group: what each pod saw, weighed. Pure.

The loss of one rank makes others fail within moments, in other pods too, and the news travel at their own pace. So
whoever judges waits a little where better evidence may be on its way, and then names the culprit, not the witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ryzanstein_worker.engine.status import GroupLost


class Blame(IntEnum):
    """What kind of evidence it is; the first outweighs the second, and so on."""

    DIED = 0  # a rank's process ended by itself or by a signal
    STOPPED = 1  # a rank's process is stopped
    NODE_GONE = 2  # a pod's connection ended without a word
    NODE_SILENT = 3  # a pod gave no sign
    SILENT = 4  # a rank that runs gave no sign: it, or one that it waits for
    WITNESS = 5  # a rank ended because others had gone


PATIENCE_SECONDS = {Blame.DIED: 0.3, Blame.STOPPED: 0.3, Blame.NODE_GONE: 0.3}
_LONG_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Evidence:
    """One sentence about one rank or pod. `age`: seconds of silence, where it is about silence."""

    blame: Blame
    rank: int | None
    reason: str
    age: float = 0.0

    @property
    def lost(self) -> GroupLost:
        return GroupLost(rank=self.rank, reason=self.reason)


def culprit(evidence: Sequence[Evidence]) -> Evidence:
    """The weightiest; of equals the longest silent, then the first that was told."""
    return min(evidence, key=lambda item: (item.blame, -item.age))


def patience(evidence: Sequence[Evidence]) -> float:
    """Seconds, from the first evidence on, in which better may still come."""
    return min(PATIENCE_SECONDS.get(item.blame, _LONG_PATIENCE_SECONDS) for item in evidence)
