"""What every rank does alike: a scheduler and a runner that walk in step with those of the other ranks.

The leader (rank 0) decides when and tells the others; see leader.py and follower.py.
"""

import logging
from collections.abc import Iterable

from ryzanstein_worker.engine.frames import Outcome
from ryzanstein_worker.engine.request import AddRequest
from ryzanstein_worker.engine.runner import Runner, StepOutOfMemoryError
from ryzanstein_worker.engine.sampler import Sampled
from ryzanstein_worker.engine.scheduler import Scheduler
from ryzanstein_worker.engine.sequence import Progress, Slice, Step
from ryzanstein_worker.parallel.group import PeerLostError

logger = logging.getLogger(__name__)

STEP_FAILED = "The engine could not compute this request beside those that are running."


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
        """Compute a step; the outcome is for all ranks to book. What one sequence raises fails that one alone.

        Raises PeerLostError, and what cannot be laid to one sequence or happens beside other ranks.
        """
        try:
            sampled = self._runner.run(step)
        except PeerLostError:
            raise
        except Exception as error:
            if not self._alone:  # the other ranks are inside a collective that this one has left
                raise
            return Outcome(failed=self._culprit(step, error).sequence.number), []
        return Outcome(token_ids=[item.token_id for item in sampled]), sampled

    def _culprit(self, step: Step, error: Exception) -> Slice:
        """The part that a failed step is laid to: where memory ran out the largest, else the first that fails alone.

        Computing a part twice is harmless: it writes the same keys and values to the same places. Raises `error` if
        no part fails alone, and what the device says if it is broken as a whole.
        """
        if isinstance(error, StepOutOfMemoryError):
            logger.warning("the device has no memory for a step; its largest request fails")
            return max(step.slices, key=lambda part: (part.count, part.sequence.number))
        logger.error("a step failed; looking for the request that makes it fail", exc_info=error)
        self._runner.check_device()
        for part in step.slices:
            try:
                self._runner.run(Step((part,)))
            except Exception:
                return part
        raise error

    def book(self, step: Step, outcome: Outcome) -> list[Progress]:
        """Enter a step's outcome into the scheduler."""
        if outcome.token_ids is not None:
            return self.scheduler.advance(step, outcome.token_ids)
        failed = next(part.sequence for part in step.slices if part.sequence.number == outcome.failed)
        return [self.scheduler.fail(failed, STEP_FAILED)]
