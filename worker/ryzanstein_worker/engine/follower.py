"""The loop of every rank but the first: book what rank 0 says, check that both schedulers agree, run the same step."""

from collections.abc import Callable

from ryzanstein_worker.engine.frames import StepFrame
from ryzanstein_worker.engine.heartbeat import RankState
from ryzanstein_worker.engine.replica import Replica
from ryzanstein_worker.engine.sequence import Step
from ryzanstein_worker.parallel.messages import Channel


class DivergedError(Exception):
    """This rank's state is not rank 0's, or the frame is not the one that follows; the group must end."""


class Follower:
    """Frames come on `leader`; that channel beats while it waits."""

    def __init__(
        self,
        replica: Replica,
        *,
        epoch: str,
        leader: Channel[StepFrame, StepFrame],
        beat: Callable[[RankState], None],
    ) -> None:
        self._replica = replica
        self._epoch = epoch
        self._leader = leader
        self._beat = beat
        self._sequence = 0
        self._step: Step | None = None

    def run(self) -> None:
        """For ever. Raises ChannelClosedError when rank 0 has gone, PeerLostError, DivergedError."""
        while True:
            self._beat(RankState.IDLE)
            frame = self._leader.receive()
            self._beat(RankState.STEP)
            self.turn(frame)

    def turn(self, frame: StepFrame) -> None:
        """One frame, one step."""
        if frame.epoch != self._epoch:
            raise DivergedError(f"a frame of epoch {frame.epoch} came to a rank of epoch {self._epoch}")
        if frame.sequence != self._sequence:
            raise DivergedError(f"frame {frame.sequence} came where frame {self._sequence} was due")
        self._sequence += 1
        if (frame.outcome is None) != (self._step is None):
            raise DivergedError(f"at frame {frame.sequence} rank 0 ran a step that this rank did not, or the reverse")
        if self._step is not None and frame.outcome is not None:
            self._replica.book(self._step, frame.outcome)
        self._replica.change(frame.aborts, frame.adds)
        own_hash = self._replica.scheduler.state_hash
        if own_hash != frame.state_hash:
            raise DivergedError(f"at frame {frame.sequence} the state is {own_hash:x}, rank 0 has {frame.state_hash:x}")
        self._step = self._replica.scheduler.schedule()
        if self._step is not None:
            self._replica.run(self._step)
