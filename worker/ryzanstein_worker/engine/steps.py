"""Which steps a traced request takes part in. Rank 0's; while none is traced it costs one comparison a step.

Bounded: of a request's steps between two of its outputs the first MOST are kept.
"""

from typing import Final

from ryzanstein_worker.engine.request import StepPart
from ryzanstein_worker.engine.sequence import Step

MOST: Final = 1024


class StepLog:
    """Parts of steps by traced request, until an output takes them along."""

    def __init__(self) -> None:
        self._parts: dict[str, list[StepPart]] = {}

    def expect(self, request_id: str) -> None:
        """A traced request has come."""
        self._parts[request_id] = []

    def note(self, step: Step, number: int, tokens: int, begin: float, seconds: float) -> None:
        """A step of so many tokens was computed. `begin` is of the monotonic clock."""
        if not self._parts:
            return
        for part in step.slices:
            parts = self._parts.get(part.sequence.request.request_id)
            if parts is not None and len(parts) < MOST:
                parts.append(StepPart(number, len(step.slices), tokens, part.count, begin, seconds))

    def take(self, request_id: str, *, last: bool) -> list[StepPart]:
        """What came since the last call. After the last one the request is forgotten."""
        if not self._parts or (parts := self._parts.pop(request_id, None)) is None:
            return []
        if not last:
            self._parts[request_id] = []
        return parts
