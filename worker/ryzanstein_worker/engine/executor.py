"""One start of the engine's ranks, wherever they live: all in this pod, or some in the other pods of a group.

Call it from the event loop's thread: the kernel ends a rank with the *thread* that started it.
"""

import asyncio
import secrets
from collections.abc import Callable

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.engine.frames import FromParent, FromRank
from ryzanstein_worker.engine.head import Head
from ryzanstein_worker.engine.ledger import RankNumbers
from ryzanstein_worker.engine.local import LocalRanks, RankLink
from ryzanstein_worker.engine.loop_thread import LoopThread
from ryzanstein_worker.engine.status import GroupLost
from ryzanstein_worker.engine.supervisor import Supervisor
from ryzanstein_worker.engine.verdict import Evidence
from ryzanstein_worker.parallel.messages import ChannelClosedError


class RemoteLink:
    """The parent's end to a rank of another pod. As a RankLink, on the engine's loop."""

    def __init__(self, rank: int, crew: "Crew") -> None:
        self._rank = rank
        self._crew = crew
        self._said: asyncio.Queue[FromRank | None] = asyncio.Queue()

    async def receive(self) -> FromRank:
        """Raises ChannelClosedError once the group is lost."""
        message = await self._said.get()
        if message is None:
            raise ChannelClosedError("the rank has gone")
        return message

    def post(self, message: FromParent) -> None:
        self._crew.post(self._rank, message)

    def put(self, message: FromRank | None) -> None:
        self._said.put_nowait(message)

    def close(self) -> None:
        """The rank ends with the group."""


class Crew:
    """The other pods of the group, as the executor sees them: what the head says comes on the engine's loop."""

    def __init__(self, config: EngineConfig, group: GroupConfig) -> None:
        """Raises ConfigError."""
        self.leaving = asyncio.Event()  # another pod was told to stop
        self.hurry = asyncio.Event()  # and once more
        self.lost: asyncio.Future[GroupLost] = asyncio.get_running_loop().create_future()
        self._config = config
        self._loop = asyncio.get_running_loop()
        self.links = {
            rank: RemoteLink(rank, self) for rank in range(config.ranks_per_node, config.tensor_parallel_size)
        }
        self.head = Head(config, group, _Herald(self))
        self.thread = LoopThread("group")

    def post(self, rank: int, message: FromParent) -> None:
        self.thread.call(self.head.post, rank, message)

    def blame(self, evidence: Evidence) -> None:
        """From any thread."""
        self.thread.call(self.head.blame, evidence)

    async def adopt(self, local: LocalRanks) -> None:
        async def adopt() -> None:
            self.head.adopt(local.slots, local.stores)

        await self.thread.run(adopt())

    async def end(self) -> None:
        await self.thread.run(self.head.end("the group was stopped"))
        await self.thread.close()

    def on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        """From any thread. The loop may be closed already if nobody waits any more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def set_lost(self, lost: GroupLost) -> None:
        if not self.lost.done():
            self.lost.set_result(lost)
        for link in self.links.values():
            link.put(None)


class _Herald:
    """What the head tells, on its loop, brought to the engine's."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def said(self, rank: int, message: FromRank) -> None:
        self._crew.on_loop(self._crew.links[rank].put, message)

    def leaving(self, hurry: bool) -> None:
        self._crew.on_loop(self._crew.leaving.set)
        if hurry:
            self._crew.on_loop(self._crew.hurry.set)

    def lost(self, lost: GroupLost) -> None:
        self._crew.on_loop(self._crew.set_lost, lost)


class Executor:
    """One start of the group. `lost` is set once, when it has ended by itself; this pod's ranks have ended then."""

    def __init__(self, config: EngineConfig, local: LocalRanks, epoch: str, crew: Crew | None) -> None:
        self.epoch = epoch
        self.slots = local.slots
        self.leader = local.links[0]  # rank 0, which takes the requests and reports
        self.links: list[RankLink | RemoteLink] = [*local.links, *(crew.links.values() if crew is not None else ())]
        self.crew = crew
        self.lost: asyncio.Future[GroupLost] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._local = local
        self._supervisor = Supervisor(local.processes, local.slots, config, self._on_evidence)
        self._supervisor.start()
        self._ending = asyncio.create_task(self._end_with(crew)) if crew is not None else None

    @classmethod
    async def start(cls, config: EngineConfig, group: GroupConfig | None = None) -> "Executor":
        """Spawn all ranks of this pod, once the others of the group have come; returns before they have loaded.

        Raises ConfigError, GroupLostError.
        """
        if group is None:
            epoch = secrets.token_hex(8)
            return cls(config, await LocalRanks.start(config, epoch), epoch, None)
        crew = Crew(config, group)
        try:
            network = await crew.thread.run(crew.head.gather())
            local = await LocalRanks.start(config, crew.head.epoch, network=network)
        except BaseException:
            await crew.end()
            raise
        executor = cls(config, local, crew.head.epoch, crew)
        try:
            await crew.adopt(local)
        except BaseException:
            await executor.stop()
            raise
        return executor

    def numbers(self) -> tuple[RankNumbers, ...]:
        """What this pod's ranks have measured of their work. From any thread."""
        return self._local.numbers()

    async def stop(self) -> None:
        """End the ranks, of every pod: those of this one by closing their channels, which ends the others' too."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
        await asyncio.to_thread(self._supervisor.stop)
        ends = [self._local.stop()] if self.crew is None else [self.crew.end(), self._local.stop()]
        await asyncio.gather(*ends)

    def _on_evidence(self, evidence: Evidence) -> None:
        """From the supervisor's thread: this pod's ranks have ended."""
        if self.crew is not None:
            self.crew.blame(evidence)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set_lost, evidence.lost)

    async def _end_with(self, crew: Crew) -> None:
        """What other pods lose ends this one's ranks as well."""
        lost = await crew.lost
        await asyncio.to_thread(self._supervisor.stop)
        await self._local.kill()
        self._set_lost(lost)

    def _set_lost(self, lost: GroupLost) -> None:
        if not self.lost.done():
            self.lost.set_result(lost)
