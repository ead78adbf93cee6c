"""Node rank 0's side of a group of several pods: gathers the others, passes on, watches them, and judges a loss.

Everything here runs on one event loop, which is not the server's (loop_thread.py): the signs of life must not wait for
it. Who else asks, the executor, comes in by `LoopThread`. The protocol is node_frames.py's.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.contract import ENV_REVISION, EXIT_GROUP_LOST
from ryzanstein_worker.engine.frames import FromParent, FromRank
from ryzanstein_worker.engine.heartbeat import HeartbeatMap
from ryzanstein_worker.engine.identity import settings_of
from ryzanstein_worker.engine.inquest import Inquest
from ryzanstein_worker.engine.local import Network, Wire
from ryzanstein_worker.engine.meeting import listen
from ryzanstein_worker.engine.node_frames import (
    Attach,
    End,
    FromHead,
    FromMember,
    FromRanks,
    Join,
    Leaving,
    Lost,
    RankAnswer,
    RankAsk,
    RankSign,
    Sign,
    Signs,
    Start,
    ToRank,
    TurnedAway,
    Welcome,
)
from ryzanstein_worker.engine.roll import Phase, Roll
from ryzanstein_worker.engine.silence import Silence, sign_seconds
from ryzanstein_worker.engine.status import GroupLost, GroupLostError
from ryzanstein_worker.engine.stores import serve_stores
from ryzanstein_worker.engine.verdict import Blame, Evidence
from ryzanstein_worker.parallel.door import Door, Guest
from ryzanstein_worker.parallel.handshake import read_key
from ryzanstein_worker.parallel.interfaces import interface_of
from ryzanstein_worker.parallel.keyvalue import Answer, Ask, Table
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import SealedCodec
from ryzanstein_worker.parallel.streams import StreamChannel, receive_one, send_one

_FAREWELL_SECONDS = 1.0
"""For the last word to be read; whoever has read it closes its end."""
_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who wants to know; called on the head's loop."""

    def said(self, rank: int, message: FromRank) -> None: ...
    def leaving(self, hurry: bool) -> None: ...
    def lost(self, lost: GroupLost) -> None: ...


class _Member:
    """Another pod."""

    def __init__(self, node_rank: int, channel: StreamChannel[FromHead, FromMember], config: EngineConfig) -> None:
        self.node_rank = node_rank
        self.ranks = config.ranks_of(node_rank)
        self.channel = channel
        self.silence = Silence(config)
        self.listening: asyncio.Task[None] | None = None


class Head:
    """One start of a group: `gather`, then `adopt` this pod's ranks, then `end`, whether or not it was lost before."""

    def __init__(self, config: EngineConfig, group: GroupConfig, listener: Listener) -> None:
        """Raises ConfigError."""
        self._config = config
        self._group = group
        self._listener = listener
        self._key = read_key(Path(group.key_file))
        settings = settings_of(config, group, os.environ.get(ENV_REVISION, ""))
        self._roll: Roll[_Member, Wire] = Roll(config, settings)
        self._changed = asyncio.Event()
        self._table = Table()
        self._slots: HeartbeatMap | None = None
        self._inquest = Inquest(self._judge)
        self._verdict: GroupLost | None = None
        self._told = False  # the others, that it is over
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def epoch(self) -> str:
        return self._roll.epoch

    async def gather(self) -> Network:
        """Until every pod has come and every rank of theirs has its connection. Raises ConfigError, GroupLostError."""
        seconds = self._config.startup_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                sock = await listen(self._group)
                self._spawn(Door(sock, self._key, self._receive).run())
                self._spawn(self._sign())
                host, port = sock.getsockname()[:2]
                where = {"nnodes": self._config.nnodes, "host": host, "port": port}
                _log.info("waiting for the other pods of the group", extra=where)
                await self._until(lambda: self._roll.is_complete)
                self._start()
                await self._until(lambda: self._roll.is_wired)
        except TimeoutError:
            raise GroupLostError(GroupLost(rank=None, reason=self._roll.absent(seconds))) from None
        return Network(self._roll.wires, interface_of(host))

    def adopt(self, slots: HeartbeatMap, stores: dict[int, socket.socket]) -> None:
        """This pod's ranks run: show the others' heartbeats beside theirs, and answer their questions."""

        async def answer(_: int, ask: Ask) -> Answer:
            return self._table.answer(ask)

        self._slots = slots
        self._tasks.update(serve_stores(stores, answer))

    def post(self, rank: int, message: FromParent) -> None:
        """To a rank of another pod."""
        self._roll.members[self._config.node_of(rank)].channel.post(ToRank(rank=rank, message=message))

    def blame(self, evidence: Evidence) -> None:
        """Something is lost; the verdict falls when better evidence has had its time."""
        if self._roll.phase is not Phase.ENDED:
            self._inquest.add(evidence)

    async def end(self, reason: str) -> None:
        """Tell the others to end in good order, unless they are told already; returns when they have heard."""
        self._finish(End(code=0, rank=None, reason=reason))
        self._inquest.close()
        members = self._roll.members.values()
        listening = [member.listening for member in members if member.listening is not None]
        if self._told and listening:
            await asyncio.wait(listening, timeout=_FAREWELL_SECONDS)
        for member in members:
            member.channel.close()
        for wire in self._roll.wires.values():
            wire.sock.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Gathering ---------------------------------------------------------------------------------

    async def _receive(self, guest: Guest) -> None:
        """A connection that holds the key. Raises ChannelClosedError for one that does not belong here."""
        codec: SealedCodec[FromHead, FromMember] = SealedCodec(FromMember, guest.seal)
        first = await receive_one(guest.sock, codec)
        sentence = self._roll.objection(first)
        if sentence is not None:
            await send_one(guest.sock, codec, TurnedAway(sentence=sentence, final=self._roll.is_for_ever(first)))
            raise ChannelClosedError(sentence)
        if isinstance(first, Attach):
            await send_one(guest.sock, codec, Welcome())
            self._roll.wires[first.rank] = Wire(guest.sock, guest.seal)
            self._changed.set()
        elif isinstance(first, Join):
            await self._join(guest, codec, first.node_rank)

    async def _join(self, guest: Guest, codec: SealedCodec[FromHead, FromMember], node_rank: int) -> None:
        if self._roll.phase is not Phase.GATHERING:
            reason = f"node rank {node_rank} came anew: its pod was restarted"
            self.blame(Evidence(Blame.NODE_GONE, None, reason))
            raise ChannelClosedError(f"{reason}; this group ends, and the next one takes it in")
        member = _Member(node_rank, await StreamChannel.open(guest.sock, codec), self._config)
        if (older := self._roll.enter(node_rank, member)) is not None:
            older.channel.close()
        member.listening = self._spawn(self._listen(member))
        self._changed.set()
        _log.info("a pod has joined the group", extra={"node_rank": node_rank, "peer": guest.address})

    def _start(self) -> None:
        self._roll.start(secrets.token_hex(8))
        for member in self._roll.members.values():
            member.channel.post(Start(epoch=self.epoch))
        _log.info("the group is complete", extra={"epoch": self.epoch, "nnodes": self._config.nnodes})

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Raises GroupLostError."""
        while not condition():
            if self._verdict is not None:
                raise GroupLostError(self._verdict)
            self._changed.clear()
            await self._changed.wait()

    # --- Watching ----------------------------------------------------------------------------------

    async def _listen(self, member: _Member) -> None:
        try:
            while True:
                self._take(member, await member.channel.receive())
        except ChannelClosedError as error:
            self._gone(member, error)
        finally:
            member.channel.close()

    def _take(self, member: _Member, message: FromMember) -> None:
        """Raises ChannelClosedError for what this pod may not say."""
        member.silence.heard()
        match message:
            case Signs() if all(sign.rank in member.ranks for sign in message.ranks):
                self._mirror(message.ranks)
            case FromRanks() if message.rank in member.ranks:
                self._listener.said(message.rank, message.message)
            case RankAsk() if message.rank in member.ranks:
                member.channel.post(RankAnswer(rank=message.rank, answer=self._table.answer(message.ask)))
            case Leaving():
                _log.info("another pod of the group was told to stop", extra={"node_rank": member.node_rank})
                self._listener.leaving(message.hurry)
            case Lost():
                self.blame(Evidence(message.blame, message.rank, message.reason, message.age))
            case _:
                raise ChannelClosedError(f"it said {type(message).__name__} out of turn")

    def _mirror(self, signs: list[RankSign]) -> None:
        if self._slots is not None:
            for sign in signs:
                self._slots.mirror(sign.rank, sign.age_seconds, sign.beats, sign.state)

    def _gone(self, member: _Member, error: ChannelClosedError) -> None:
        if self._roll.phase is Phase.STARTED:
            reason = f"node rank {member.node_rank} has gone: {error}"
            self.blame(Evidence(Blame.NODE_GONE, None, reason))
        elif self._roll.phase is Phase.GATHERING and self._roll.members.get(member.node_rank) is member:
            del self._roll.members[member.node_rank]
            _log.info("a pod has left the group before its start", extra={"node_rank": member.node_rank})

    async def _sign(self) -> None:
        """For ever: a sign of ours to each pod, and an eye on who has given none."""
        while True:
            await asyncio.sleep(sign_seconds(self._config))
            for member in list(self._roll.members.values()):
                member.channel.post(Sign())
                if not member.silence.is_too_long():
                    continue
                if self._roll.phase is Phase.GATHERING:
                    member.channel.close()
                    continue
                seconds = member.silence.seconds
                reason = f"node rank {member.node_rank} gave no sign of life for {seconds:.1f} s"
                self.blame(Evidence(Blame.NODE_SILENT, None, reason, seconds))

    def _judge(self, evidence: Evidence) -> None:
        lost = evidence.lost
        self._finish(End(code=EXIT_GROUP_LOST, rank=lost.rank, reason=lost.reason))
        self._verdict = lost
        self._changed.set()
        self._listener.lost(lost)

    def _finish(self, end: End) -> None:
        if self._roll.phase is Phase.ENDED:
            return
        self._told = self._roll.phase is Phase.STARTED  # before, they have only to come again
        self._roll.phase = Phase.ENDED
        for member in self._roll.members.values() if self._told else ():
            member.channel.post(end)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
