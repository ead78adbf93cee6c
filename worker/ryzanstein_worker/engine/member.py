"""Another pod's side of a group: joins node rank 0, runs its ranks, and ends with the group. See node_frames.py.

Its one event loop has nothing else to do, so everything is on it.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.contract import ENV_REVISION, EXIT_CONFIG, EXIT_GROUP_LOST
from ryzanstein_worker.engine.frames import FromRank, Ready, Refused
from ryzanstein_worker.engine.identity import settings_of
from ryzanstein_worker.engine.inquest import Inquest
from ryzanstein_worker.engine.joining import Caller, HeadChannel
from ryzanstein_worker.engine.ledger import RankNumbers
from ryzanstein_worker.engine.local import LocalRanks, Network, RankLink
from ryzanstein_worker.engine.node_frames import (
    End,
    FromHead,
    FromMember,
    FromRanks,
    Leaving,
    Lost,
    RankAnswer,
    RankAsk,
    RankSign,
    Sign,
    Signs,
    ToRank,
)
from ryzanstein_worker.engine.silence import Silence, sign_seconds
from ryzanstein_worker.engine.status import EngineHealth, EngineLoad, ModelInfo, RankHealth
from ryzanstein_worker.engine.stores import serve_stores
from ryzanstein_worker.engine.supervisor import Supervisor
from ryzanstein_worker.engine.verdict import Blame, Evidence
from ryzanstein_worker.parallel.handshake import read_key
from ryzanstein_worker.parallel.keyvalue import Answer, Ask
from ryzanstein_worker.parallel.messages import ChannelClosedError

_VERDICT_SECONDS = 1.5
"""How much longer than for evidence of our own to wait for node rank 0, which has everybody's."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How the group's end was told: the process' exit code, and a sentence."""

    code: int
    reason: str
    rank: int | None = None


class Member:
    """One start: `run` it once. `health`, `load` and `epoch` may be called from any thread."""

    def __init__(self, config: EngineConfig, group: GroupConfig) -> None:
        """Raises ConfigError."""
        self.epoch = ""
        self.ready = asyncio.Event()  # this pod's ranks have loaded and warmed up
        self.info: ModelInfo | None = None  # known from then on
        self._config = config
        self._group = group
        settings = settings_of(config, group, os.environ.get(ENV_REVISION, ""))
        self._caller = Caller(config, group, read_key(Path(group.key_file)), settings)
        self._channel: HeadChannel | None = None
        self._local: LocalRanks | None = None
        self._waiting: set[int] = set(config.ranks_of(group.node_rank))
        self._answers = {rank: asyncio.Queue[Answer]() for rank in self._waiting}
        self._refusal: str | None = None
        self._silence = Silence(config)
        self._linked = False
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._inquest = Inquest(self._judge, extra=lambda: _VERDICT_SECONDS if self._linked else 0.0)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Ended:
        """Until the group ends. Raises ConfigError where only the user can mend it."""
        seconds = self._config.startup_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                joined = await self._caller.join()
        except TimeoutError:
            reason = f"the group did not come together within {seconds:g} s; node rank 0: {self._caller.obstacle}"
            return Ended(EXIT_GROUP_LOST, reason)
        self._channel, self.epoch = joined.channel, joined.epoch
        self._linked = True
        supervisor: Supervisor | None = None
        try:
            for work in (self._listen(self._channel), self._sign(self._channel)):
                self._spawn(work)
            supervisor = await self._start(joined.interface)
            return await self._ended
        finally:
            await self._stop(supervisor)

    def leave(self, *, hurry: bool) -> bool:
        """Tell node rank 0 that this pod was told to stop; False if there is no group yet that could drain."""
        if self._channel is None:
            return False
        self._post(Leaving(hurry=hurry))
        return True

    def health(self) -> EngineHealth:
        """Of this pod's ranks, from shared memory."""
        local = self._local
        ranks = tuple(
            RankHealth(
                rank=rank, state=state.name.lower(), age_seconds=age, beats=beats, node_rank=self._group.node_rank
            )
            for rank in (self._config.ranks_of(self._group.node_rank) if local is not None else ())
            for age, beats, state in ([local.slots.read(rank)] if local is not None else [])
        )
        return EngineHealth(alive=True, reason="every rank of this pod gives signs of life", ranks=ranks)

    def load(self) -> EngineLoad:
        """None: node rank 0 has the scheduler that tells."""
        return EngineLoad(running=0, waiting=0, kv_cache_usage=0.0)

    def numbers(self) -> tuple[RankNumbers, ...]:
        """What this pod's ranks have measured of their work. From any thread."""
        return self._local.numbers() if self._local is not None else ()

    # --- Work --------------------------------------------------------------------------------------

    async def _start(self, interface: str) -> Supervisor | None:
        """Attach and spawn this pod's ranks; None, with the reason told, where the group has moved on."""
        node_rank = self._group.node_rank
        try:
            wires = {rank: await self._caller.attach(self.epoch, rank) for rank in self._config.ranks_of(node_rank)}
        except ChannelClosedError as error:
            self._blame(Evidence(Blame.NODE_GONE, None, f"node rank {node_rank} could not attach its ranks: {error}"))
            return None
        network = Network(wires, interface)
        local = await LocalRanks.start(self._config, self.epoch, node_rank=node_rank, network=network)
        self._local = local
        for task in serve_stores(local.stores, self._ask):
            self._keep(task)
        for rank, link in zip(self._config.ranks_of(node_rank), local.links, strict=True):
            self._spawn(self._pass_on(rank, link))
        supervisor = Supervisor(local.processes, local.slots, self._config, self._on_evidence, node_rank=node_rank)
        supervisor.start()
        return supervisor

    async def _listen(self, channel: HeadChannel) -> None:
        try:
            while True:
                message = await channel.receive()
                self._silence.heard()
                self._take(message)
        except ChannelClosedError as error:
            self._linked = False
            if not self._ended.done():
                self._blame(Evidence(Blame.NODE_GONE, None, f"node rank 0 has gone: {error}"))

    def _take(self, message: FromHead) -> None:
        own = self._config.ranks_of(self._group.node_rank)
        match message:
            case Sign():
                pass
            case ToRank() if message.rank in own and self._local is not None:
                self._local.links[message.rank - own.start].post(message.message)
            case RankAnswer() if message.rank in own:
                self._answers[message.rank].put_nowait(message.answer)
            case End():
                self._end(Ended(message.code, message.reason, message.rank))
            case _:
                raise ChannelClosedError(f"it said {type(message).__name__} out of turn")

    async def _pass_on(self, rank: int, link: RankLink) -> None:
        """What a rank says, to node rank 0, whose engine asked for it. The supervisor tells of its end."""
        try:
            while True:
                message = await link.receive()
                self._note(rank, message)
                self._post(FromRanks(rank=rank, message=message))
        except ChannelClosedError:
            return

    def _note(self, rank: int, message: FromRank) -> None:
        if isinstance(message, Refused):
            self._refusal = message.sentence
        if isinstance(message, Ready):
            self.info = message.info
            self._waiting.discard(rank)
            if not self._waiting:
                self.ready.set()

    async def _ask(self, rank: int, ask: Ask) -> Answer:
        self._post(RankAsk(rank=rank, ask=ask))
        return await self._answers[rank].get()

    async def _sign(self, channel: HeadChannel) -> None:
        """Until the group has ended: a sign of ours, and an eye on node rank 0."""
        while not self._ended.done():
            channel.post(Signs(ranks=self._rank_signs()))
            await asyncio.sleep(sign_seconds(self._config))
            if self._silence.is_too_long():
                self._linked = False
                seconds = self._silence.seconds
                reason = f"node rank 0 gave no sign of life for {seconds:.1f} s"
                self._blame(Evidence(Blame.NODE_SILENT, None, reason, seconds))
                return

    def _rank_signs(self) -> list[RankSign]:
        local = self._local
        if local is None:
            return []
        return [
            RankSign(rank=rank, age_seconds=age, beats=beats, state=state)
            for rank in self._config.ranks_of(self._group.node_rank)
            for age, beats, state in [local.slots.read(rank)]
        ]

    # --- The end -----------------------------------------------------------------------------------

    def _on_evidence(self, evidence: Evidence) -> None:
        """From the supervisor's thread: this pod's ranks have ended."""
        loop = self._ended.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._blame, evidence)

    def _blame(self, evidence: Evidence) -> None:
        """Tell node rank 0, which judges; if it cannot, we do."""
        self._post(Lost(blame=evidence.blame, rank=evidence.rank, reason=evidence.reason, age=evidence.age))
        if not self._ended.done():
            self._inquest.add(evidence)

    def _judge(self, evidence: Evidence) -> None:
        self._end(Ended(EXIT_GROUP_LOST, evidence.reason, evidence.rank))

    def _end(self, ended: Ended) -> None:
        if self._ended.done():
            return
        if self._refusal is not None:  # the loss is its consequence
            ended = Ended(EXIT_CONFIG, self._refusal)
        self._ended.set_result(ended)

    async def _stop(self, supervisor: Supervisor | None) -> None:
        self._inquest.close()
        if supervisor is not None:
            await asyncio.to_thread(supervisor.stop)
        if self._local is not None:
            await self._local.stop()
        if self._channel is not None:
            self._channel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _post(self, message: FromMember) -> None:
        if self._channel is not None and self._linked:
            self._channel.post(message)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.get_running_loop().create_task(coroutine))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
