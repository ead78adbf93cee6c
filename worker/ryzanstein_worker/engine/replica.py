"""What every rank does alike: a scheduler and a runner that walk in step with those of the other ranks.

The leader (rank 0) decides when and tells the others; see leader.py and follower.py.
"""

from collections.abc import Iterable

from ryzanstein_worker.engine.frames import Outcome
from ryzanstein_worker.engine.request import AddRequest
from ryzanstein_worker.engine.runner import Runner, StepOutOfMemoryError
from ryzanstein_worker.engine.sampler import Sampled
from ryzanstein_worker.engine.scheduler import Scheduler
from ryzanstein_worker.engine.sequence import Progress, Step

OUT_OF_MEMORY = "The device has no memory for a prompt of this length beside the requests that are running."


class Replica:
    """One rank's copy of the engine's state."""

    def __init__(self, scheduler: Scheduler, runner: Runner, *, alone: bool) -> None:
        self.scheduler = scheduler
        self._runner = runner
        self._alone = alone

    def change(self, aborts: Iterable[str], adds: Iterable[AddRequest]) -> list[Progress]:
        """Aborts first: the blocks they free may serve what is added."""
        changed = [self.scheduler.abort(request_id) for request_id in aborts]
        changed += [self.scheduler.add(request) for request in adds]
        return [progress for progress in changed if progress is not None]

    def run(self, step: Step) -> tuple[Outcome, list[Sampled]]:
        """Compute a step; the outcome is for all ranks to book. Raises PeerLostError."""
        try:
            sampled = self._runner.run(step)
        except StepOutOfMemoryError:
            if not self._alone:  # the other ranks are inside a collective that this one has left
                raise
            largest = max(step.slices, key=lambda part: (part.count, part.sequence.number))
            return Outcome(failed=largest.sequence.number), []
        return Outcome(token_ids=[item.token_id for item in sampled]), sampled

    def book(self, step: Step, outcome: Outcome) -> list[Progress]:
        """Enter a step's outcome into the scheduler."""
        if outcome.token_ids is not None:
            return self.scheduler.advance(step, outcome.token_ids)
        failed = next(part.sequence for part in step.slices if part.sequence.number == outcome.failed)
        return [self.scheduler.fail(failed, OUT_OF_MEMORY)]
