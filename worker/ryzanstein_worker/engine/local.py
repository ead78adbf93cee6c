"""The ranks of this pod: their processes, and the parent's ends of their channels and heartbeats.

No multiprocessing and no pickle: a rank is a program with one JSON argument and inherited file descriptors. Call it
from the event loop's thread: the kernel ends a rank with the *thread* that started it.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.contract import ENV_HUB_TOKEN
from ryzanstein_worker.engine.frames import FromParent, FromRank, PeerSeals, RankLaunch
from ryzanstein_worker.engine.heartbeat import HeartbeatMap
from ryzanstein_worker.engine.ledger import Ledger, RankNumbers
from ryzanstein_worker.engine.supervisor import kill_all
from ryzanstein_worker.parallel.messages import FrameCodec
from ryzanstein_worker.parallel.seal import Seal
from ryzanstein_worker.parallel.streams import StreamChannel
from ryzanstein_worker.telemetry.log_level import SWITCH, blocked

_STOP_SECONDS = 3.0

RankLink = StreamChannel[FromParent, FromRank]
"""The parent's end of the channel to one rank."""


@dataclass(frozen=True)
class Wire:
    """A connection between rank 0 and a rank of another pod, ready to be inherited."""

    sock: socket.socket
    seal: Seal


@dataclass(frozen=True)
class Network:
    """What ties this pod's ranks to those of others: by the remote rank on node rank 0, elsewhere by the own rank."""

    wires: dict[int, Wire]
    interface: str


@dataclass
class _Sockets:
    """Pairs for one start; the first of each is the parent's or rank 0's."""

    parents: dict[int, tuple[socket.socket, socket.socket]]
    peers: dict[int, tuple[socket.socket, socket.socket]]
    stores: dict[int, tuple[socket.socket, socket.socket]] = field(default_factory=dict)

    @classmethod
    def make(cls, ranks: range, *, across: bool) -> "_Sockets":
        return cls(
            parents={rank: socket.socketpair() for rank in ranks},
            peers={rank: socket.socketpair() for rank in ranks if rank > 0 and ranks.start == 0},
            stores={rank: socket.socketpair() for rank in ranks if across},
        )

    def close_theirs(self) -> None:
        """The ranks' ends live in the ranks alone from here on, so that a rank's death ends its streams."""
        for pair in [*self.parents.values(), *self.stores.values()]:
            pair[1].close()
        for pair in self.peers.values():
            pair[0].close()
            pair[1].close()


class LocalRanks:
    """One start of this pod's ranks. `links`, `processes` are in the order of the ranks; `stores` has the parent's ends
    of the ranks' ways to the group's table."""

    def __init__(
        self,
        processes: list[subprocess.Popen[bytes]],
        links: list[RankLink],
        slots: HeartbeatMap,
        ledger: Ledger,
        ranks: range,
        stores: dict[int, socket.socket],
        directory: Path,
    ) -> None:
        self.processes = processes
        self.links = links
        self.slots = slots
        self._ledger = ledger
        self._ranks = ranks
        self.stores = stores
        self._directory = directory

    @classmethod
    async def start(
        cls, config: EngineConfig, epoch: str, *, node_rank: int = 0, network: Network | None = None
    ) -> "LocalRanks":
        """Spawn them all; returns at once, before they have loaded. Takes the network's sockets over."""
        directory = Path(tempfile.mkdtemp(prefix="ryzanstein-"))
        heartbeat_fd = HeartbeatMap.create(config.tensor_parallel_size)
        slots = HeartbeatMap(heartbeat_fd, config.tensor_parallel_size)
        ledger_fd = Ledger.create(config.tensor_parallel_size)
        ledger = Ledger(ledger_fd, config.tensor_parallel_size)
        ranks = config.ranks_of(node_rank)
        sockets = _Sockets.make(ranks, across=network is not None)
        launches = _Launches(config, epoch, directory, heartbeat_fd, ledger_fd, sockets, network)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes += [launches.spawn(rank) for rank in ranks]
            links = [await RankLink.open(sockets.parents[rank][0], FrameCodec(FromRank)) for rank in ranks]
        except BaseException:
            kill_all(processes)
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            os.close(heartbeat_fd)
            os.close(ledger_fd)
            sockets.close_theirs()
            for wire in network.wires.values() if network is not None else ():
                wire.sock.close()
        stores = {rank: pair[0] for rank, pair in sockets.stores.items()}
        return cls(processes, links, slots, ledger, ranks, stores, directory)

    def numbers(self) -> tuple[RankNumbers, ...]:
        """What each rank of this pod has measured of its work. From any thread."""
        return tuple(self._ledger.account(rank).read(rank) for rank in self._ranks)

    async def stop(self) -> None:
        """Tell the ranks to go by closing their channels; kill what is still there after three seconds."""
        for link in self.links:
            link.close()
        deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
        while any(process.poll() is None for process in self.processes):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        await self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def kill(self) -> None:
        await asyncio.to_thread(kill_all, self.processes)
        for process in self.processes:
            SWITCH.disown(process)


@dataclass(frozen=True)
class _Launches:
    """What the ranks of one start have in common."""

    config: EngineConfig
    epoch: str
    directory: Path
    heartbeat_fd: int
    ledger_fd: int
    sockets: _Sockets
    network: Network | None

    def spawn(self, rank: int) -> subprocess.Popen[bytes]:
        peers, seals = self._peers(rank)
        seals_fd = _in_memory(PeerSeals(seals=seals)) if any(seals) else None
        launch = RankLaunch(
            config=self.config,
            rank=rank,
            epoch=self.epoch,
            parent_pid=os.getpid(),
            store_path=str(self.directory / "store"),
            heartbeat_fd=self.heartbeat_fd,
            ledger_fd=self.ledger_fd,
            spawned=time.monotonic(),
            parent_fd=self.sockets.parents[rank][1].fileno(),
            peer_fds=[peer.fileno() for peer in peers],
            seals_fd=seals_fd,
            store_fd=self.sockets.stores[rank][1].fileno() if self.network is not None else None,
            interface=self.network.interface if self.network is not None else "lo",
        )
        try:
            return _spawn(launch)
        finally:
            if seals_fd is not None:
                os.close(seals_fd)

    def _peers(self, rank: int) -> tuple[list[socket.socket], list[Seal | None]]:
        wires = self.network.wires if self.network is not None else {}
        if rank == 0:
            remote = [wires[other] for other in sorted(wires)]
            local = [self.sockets.peers[other][0] for other in sorted(self.sockets.peers)]
            return [*local, *(wire.sock for wire in remote)], [*(None for _ in local), *(wire.seal for wire in remote)]
        if rank in self.sockets.peers:
            return [self.sockets.peers[rank][1]], [None]
        return [wires[rank].sock], [wires[rank].seal]


def _in_memory(seals: PeerSeals) -> int:
    """A descriptor to read them from once."""
    fd = os.memfd_create("ryzanstein-seals")
    os.write(fd, msgspec.msgpack.encode(seals))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _spawn(launch: RankLaunch) -> subprocess.Popen[bytes]:
    threads = str(launch.config.threads_per_rank)
    environment = {
        **{name: value for name, value in os.environ.items() if name != ENV_HUB_TOKEN},  # no rank needs the secret
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
    }
    across = [fd for fd in (launch.seals_fd, launch.store_fd) if fd is not None]
    with blocked():
        process = subprocess.Popen(
            [sys.executable, "-m", "ryzanstein_worker.engine.rank", msgspec.json.encode(launch).decode()],
            stdin=subprocess.DEVNULL,
            pass_fds=[launch.heartbeat_fd, launch.ledger_fd, launch.parent_fd, *launch.peer_fds, *across],
            env=environment,
        )
    SWITCH.adopt(process)
    return process
