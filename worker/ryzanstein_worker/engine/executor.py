"""Starts the ranks' processes and holds the parent's ends: their channels, heartbeats and supervisor.

No multiprocessing and no pickle: a rank is a program with one JSON argument and inherited file descriptors. Call it
from the event loop's thread: the kernel ends a rank with the *thread* that started it.
"""

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.contract import ENV_HUB_TOKEN
from ryzanstein_worker.engine.frames import FromParent, FromRank, RankLaunch
from ryzanstein_worker.engine.heartbeat import HeartbeatMap
from ryzanstein_worker.engine.status import GroupLost
from ryzanstein_worker.engine.supervisor import Supervisor, kill_all
from ryzanstein_worker.parallel.messages import Channel, ChannelClosedError, FrameCodec

_STOP_SECONDS = 3.0


class RankLink:
    """The parent's end of the channel to one rank, on the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._codec: FrameCodec[FromParent, FromRank] = FrameCodec(FromRank)

    @classmethod
    async def open(cls, sock: socket.socket) -> "RankLink":
        return cls(*await asyncio.open_connection(sock=sock))

    async def receive(self) -> FromRank:
        """Raises ChannelClosedError at the end of the stream."""
        try:
            size = self._codec.body_size(await self._reader.readexactly(Channel.header_size))
            return self._codec.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelClosedError("the rank has gone") from error

    def post(self, message: FromParent) -> None:
        """Queue without waiting, for what is small and rare. A rank that has gone is the supervisor's business."""
        if not self._writer.is_closing():
            self._writer.write(self._codec.encode(message))

    async def send(self, message: FromParent) -> None:
        """Queue, and wait while more lies queued than the socket takes. Raises ChannelClosedError, ValueError."""
        self.post(message)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ChannelClosedError("the rank has gone") from error

    def close(self) -> None:
        self._writer.close()


class Executor:
    """One start of the group. `lost` is set once, when it has ended by itself."""

    def __init__(
        self,
        config: EngineConfig,
        processes: list[subprocess.Popen[bytes]],
        links: list[RankLink],
        slots: HeartbeatMap,
        directory: Path,
        epoch: str,
    ) -> None:
        self.epoch = epoch
        self.processes = processes
        self.links = links
        self.slots = slots
        self.lost: asyncio.Future[GroupLost] = asyncio.get_running_loop().create_future()
        self._directory = directory
        self._supervisor = Supervisor(processes, slots, config, self._on_lost)
        self._supervisor.start()

    @classmethod
    async def start(cls, config: EngineConfig) -> "Executor":
        """Spawn all ranks; returns at once, before they have loaded."""
        size = config.tensor_parallel_size
        directory = Path(tempfile.mkdtemp(prefix="ryzanstein-"))
        heartbeat_fd = HeartbeatMap.create(size)
        slots = HeartbeatMap(heartbeat_fd, size)
        parents = [socket.socketpair() for _ in range(size)]
        peers = [socket.socketpair() for _ in range(size - 1)]
        epoch = secrets.token_hex(8)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(size):
                ends = [pair[0] for pair in peers] if rank == 0 else [peers[rank - 1][1]]
                launch = RankLaunch(
                    config=config,
                    rank=rank,
                    epoch=epoch,
                    parent_pid=os.getpid(),
                    store_path=str(directory / "store"),
                    heartbeat_fd=heartbeat_fd,
                    parent_fd=parents[rank][1].fileno(),
                    peer_fds=[end.fileno() for end in ends],
                )
                processes.append(_spawn(launch))
            links = [await RankLink.open(pair[0]) for pair in parents]
        except BaseException:
            kill_all(processes)
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            # The ranks' ends live in the ranks alone from here on, so that a rank's death ends its streams.
            os.close(heartbeat_fd)
            for sock in [*(pair[1] for pair in parents), *(end for pair in peers for end in pair)]:
                sock.close()
        return cls(config, processes, links, slots, directory, epoch)

    async def stop(self) -> None:
        """Tell the ranks to go by closing their channels; kill what is still there after three seconds."""
        await asyncio.to_thread(self._supervisor.stop)
        for link in self.links:
            link.close()
        deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
        while any(process.poll() is None for process in self.processes):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        await asyncio.to_thread(kill_all, self.processes)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _on_lost(self, lost: GroupLost) -> None:
        """From the supervisor's thread. The loop may be closed already if nobody waits any more."""
        loop = self.lost.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._set_lost, lost)

    def _set_lost(self, lost: GroupLost) -> None:
        if not self.lost.done():
            self.lost.set_result(lost)


def _spawn(launch: RankLaunch) -> subprocess.Popen[bytes]:
    threads = str(launch.config.threads_per_rank)
    environment = {
        **{name: value for name, value in os.environ.items() if name != ENV_HUB_TOKEN},  # no rank needs the secret
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ryzanstein_worker.engine.rank", msgspec.json.encode(launch).decode()],
        stdin=subprocess.DEVNULL,
        pass_fds=[launch.heartbeat_fd, launch.parent_fd, *launch.peer_fds],
        env=environment,
    )
