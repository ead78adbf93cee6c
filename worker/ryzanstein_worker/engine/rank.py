"""One rank's process: `python -m ryzanstein_worker.engine.rank LAUNCH`, started by the executor and by nobody else.

Loads its share of the model, waits for the others, then leads (rank 0) or follows. It ends with the parent, with its
peers, and with an exit code that tells the supervisor whether the fault was its own.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from functools import partial

import msgspec
import torch

from ryzanstein_worker.contract import EXIT_CONFIG
from ryzanstein_worker.engine.follower import DivergedError, Follower
from ryzanstein_worker.engine.frames import (
    Begin,
    FromParent,
    FromRank,
    Loaded,
    PeerSeals,
    RankLaunch,
    Ready,
    Refused,
    StepFrame,
)
from ryzanstein_worker.engine.heartbeat import HeartbeatMap, RankState
from ryzanstein_worker.engine.inbox import Inbox
from ryzanstein_worker.engine.leader import Leader
from ryzanstein_worker.engine.ledger import Ledger
from ryzanstein_worker.engine.loading import LoadedRank, load_rank
from ryzanstein_worker.engine.replica import Replica
from ryzanstein_worker.engine.runner import StepOutOfMemoryError
from ryzanstein_worker.engine.scheduler import Scheduler
from ryzanstein_worker.engine.status import EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_PEER_LOST
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel.group import PeerLostError
from ryzanstein_worker.parallel.messages import MAX_FRAME_BYTES, Channel, ChannelClosedError, FrameCodec
from ryzanstein_worker.parallel.seal import Seal, SealedCodec
from ryzanstein_worker.telemetry.log_level import SWITCH
from ryzanstein_worker.telemetry.logs import configure_logging

logger = logging.getLogger("ryzanstein_worker.engine.rank")  # __name__ would be "__main__"

_PR_SET_PDEATHSIG = 1


class RankProcess:
    """A rank's channels and signs of life, and the order of its start."""

    def __init__(self, launch: RankLaunch) -> None:
        self.launch = launch
        self._slots = HeartbeatMap(launch.heartbeat_fd, launch.config.tensor_parallel_size)
        self._account = Ledger(launch.ledger_fd, launch.config.tensor_parallel_size).account(launch.rank)
        self._account.stage("process", time.monotonic() - launch.spawned)
        # Idle turns must beat well within the hang timeout.
        self._tick = min(1.0, launch.config.hang_timeout_seconds / 4)
        parent = socket.socket(fileno=launch.parent_fd)
        codec: FrameCodec[FromRank, FromParent] = FrameCodec(FromParent)
        self._to_parent = Channel(parent, codec, on_wait=partial(self._beat, RankState.IDLE), tick=self._tick)
        # Read by a thread of its own, whose waiting says nothing about this rank's loop: no beat.
        self._from_parent = Channel(parent.dup(), codec, on_wait=_nothing, tick=self._tick)
        self._peers = [self._peer(fd, seal) for fd, seal in zip(launch.peer_fds, _seals(launch), strict=True)]

    def run(self) -> None:
        """Load, meet the others, serve until the parent goes. Raises what ended it."""
        torch.set_num_threads(self.launch.config.threads_per_rank)
        try:
            loaded = load_rank(self.launch, self._account, on_progress=partial(self._beat, RankState.LOADING))
            self._to_parent.send(Loaded(rank=self.launch.rank, num_kv_blocks=loaded.num_kv_blocks))
            begin = self._to_parent.receive()  # this end beats while it waits
            if not isinstance(begin, Begin):
                raise ChannelClosedError("the parent spoke out of turn")
            loaded.allocate(begin.num_kv_blocks)
        except ConfigError as error:
            self._to_parent.send(Refused(rank=self.launch.rank, sentence=str(error)))
            raise
        self._to_parent.send(Ready(rank=self.launch.rank, info=loaded.info))
        self._serve(loaded)
        loaded.group.close()

    def _serve(self, loaded: LoadedRank) -> None:
        inbox: Inbox[FromParent] = Inbox(self._from_parent)
        config = self.launch.config
        scheduler = Scheduler(loaded.limits, enable_prefix_caching=config.enable_prefix_caching)
        runner = loaded.runner(on_layer=partial(self._beat, RankState.STEP))
        replica = Replica(scheduler, runner, alone=loaded.group.size == 1)
        if self.launch.rank != 0:
            Follower(replica, epoch=self.launch.epoch, leader=self._peers[0], beat=self._beat).run()
            return
        Leader(
            replica,
            epoch=self.launch.epoch,
            inbox=inbox,
            parent=self._to_parent,
            peers=self._peers,
            beat=self._beat,
            tell_load=self._slots.tell_load,
            account=self._account,
            tick=self._tick,
        ).run()

    def _beat(self, state: RankState) -> None:
        self._slots.beat(self.launch.rank, state)

    def _peer(self, fd: int, seal: Seal | None) -> Channel[StepFrame, StepFrame]:
        # A frame holds what several of the parent's frames brought.
        limit = 4 * MAX_FRAME_BYTES
        codec: FrameCodec[StepFrame, StepFrame] = (
            FrameCodec(StepFrame, max_bytes=limit) if seal is None else SealedCodec(StepFrame, seal, max_bytes=limit)
        )
        return Channel(socket.socket(fileno=fd), codec, on_wait=partial(self._beat, RankState.IDLE), tick=self._tick)


def _seals(launch: RankLaunch) -> list[Seal | None]:
    """Read once, then gone."""
    if launch.seals_fd is None:
        return [None] * len(launch.peer_fds)
    with open(launch.seals_fd, "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=PeerSeals).seals


def main(argument: str) -> int:
    """The process' exit code."""
    launch = msgspec.json.decode(argument, type=RankLaunch)
    SWITCH.listen(configure_logging(rank=launch.rank, epoch=launch.epoch))
    _die_with(launch.parent_pid)
    _ignore_signals()
    try:
        RankProcess(launch).run()
    except ConfigError:
        return EXIT_CONFIG  # the parent has the sentence
    except (PeerLostError, ChannelClosedError) as error:
        # Also the ordinary end: a rank that follows ends when rank 0 has. The supervisor knows which it was.
        logger.info("the rank ends because others have gone: %s", error)
        return EXIT_PEER_LOST
    except DivergedError as error:
        logger.error("the rank ends because the ranks disagree: %s", error)
        return EXIT_DIVERGED
    except StepOutOfMemoryError:
        logger.error("the rank ends because the device has no memory for a step that other ranks are in")
        return EXIT_OUT_OF_MEMORY
    except Exception:
        logger.exception("the rank ends because of a fault of its own")
        return 1
    return 0


def _die_with(parent_pid: int) -> None:
    """Let the kernel end this process with its parent, however the parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it went before the kernel knew
        os._exit(0)


def _ignore_signals() -> None:
    """Ctrl-C goes to the whole foreground group, and SIGTERM may too; the parent drains and then closes the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _nothing() -> None:
    """The inbox' thread has nobody to tell."""


if __name__ == "__main__":
    code = main(sys.argv[1])
    logging.shutdown()
    # Not sys.exit: torch takes a second to tear down, and with a peer gone the process group may wait for it.
    os._exit(code)
