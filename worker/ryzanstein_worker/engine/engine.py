"""The engine as the server sees it: requests in, tokens out, on asyncio, in the parent process.

Speaks token ids only; knows nothing of text, templates or HTTP. It never blocks the event loop and imports no torch:
the model lives in the ranks.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from ryzanstein_worker.config import EngineConfig, GroupConfig
from ryzanstein_worker.engine.executor import Executor, RemoteLink
from ryzanstein_worker.engine.frames import Begin, FromRank, Loaded, Ready, Refused, StepReport
from ryzanstein_worker.engine.heartbeat import RankState
from ryzanstein_worker.engine.ledger import RankNumbers
from ryzanstein_worker.engine.local import RankLink
from ryzanstein_worker.engine.request import Abort, AddRequest, TokenOutput
from ryzanstein_worker.engine.status import (
    EngineBusyError,
    EngineHealth,
    EngineLoad,
    EngineStats,
    GroupLost,
    GroupLostError,
    ModelInfo,
    RankHealth,
)
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel.messages import ChannelClosedError

__all__ = ["Engine", "EngineBusyError", "EngineHealth", "EngineStats", "GroupLost", "GroupLostError", "ModelInfo"]

logger = logging.getLogger(__name__)

_STOPPED = GroupLost(rank=None, reason="the engine was stopped")

T = TypeVar("T")


class Engine:
    """Make it with `start`, end it with `stop`. What says nothing of threads is the event loop's alone."""

    def __init__(self, config: EngineConfig, executor: Executor, info: ModelInfo) -> None:
        self._config = config
        self._executor = executor
        self._info = info
        self._stats = EngineStats(kv_blocks_free=info.num_kv_blocks)
        self._streams: dict[str, asyncio.Queue[TokenOutput | GroupLost]] = {}
        self._lost: GroupLost | None = None
        self._ended = asyncio.Event()
        executor.lost.add_done_callback(lambda future: self._end(future.result()))
        self._reader = asyncio.create_task(self._read_reports(), name="engine reports")

    @classmethod
    async def start(cls, config: EngineConfig, group: GroupConfig | None = None) -> "Engine":
        """Meet the other pods of the group, spawn the ranks, load, warm up. Raises ConfigError, GroupLostError; nothing
        is left behind then."""
        executor = await Executor.start(config, group)
        try:
            info = await _unless_leaving(executor, _load(executor))
        except BaseException:
            await executor.stop()
            raise
        return cls(config, executor, info)

    @property
    def info(self) -> ModelInfo:
        """Facts of the loaded model."""
        return self._info

    @property
    def epoch(self) -> str:
        """Names this start of the group of ranks; the next start has another."""
        return self._executor.epoch

    def load(self) -> EngineLoad:
        """As rank 0 told in shared memory, with what it has not come to read yet: may be called from any thread."""
        running, _, usage = self._executor.slots.read_load()
        inside = len(self._streams)
        return EngineLoad(running=min(running, inside), waiting=max(0, inside - running), kv_cache_usage=usage)

    def stats(self) -> EngineStats:
        """Rank 0's counters after its latest step."""
        return self._stats

    def numbers(self) -> tuple[RankNumbers, ...]:
        """What this pod's ranks have measured of their work, from shared memory. From any thread."""
        return self._executor.numbers()

    async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]:
        """The request's outputs until the one with a finish_reason. Closing the generator earlier aborts the request.

        Raises EngineBusyError (not started), GroupLostError, ValueError for an id that is in use or a request beyond
        the frame limit. A consumer that is slow holds up nobody: at most max_tokens outputs wait for it.
        """
        if self._lost is not None:
            raise GroupLostError(self._lost, started=False)
        if request.request_id in self._streams:
            raise ValueError(f"a request {request.request_id!r} is running already")
        if len(self._streams) >= self._config.max_queued_requests:
            raise EngineBusyError(f"{len(self._streams)} requests are in the engine already")
        stream: asyncio.Queue[TokenOutput | GroupLost] = asyncio.Queue()
        self._streams[request.request_id] = stream
        finished = False
        try:
            await self._send(request)
            while not finished:
                output = await stream.get()
                if isinstance(output, GroupLost):
                    raise GroupLostError(output)
                finished = output.finish_reason is not None
                yield output
        finally:
            del self._streams[request.request_id]
            if not finished:
                self.abort(request.request_id)

    def abort(self, request_id: str) -> None:
        """End a request; its stream gets a last output with finish_reason "abort". Unknown ids are fine."""
        if self._lost is None:
            self._executor.leader.post(Abort(request_id=request_id))

    def health(self) -> EngineHealth:
        """From shared memory alone: may be called from any thread, and answers while the event loop is busy. Ranks of
        other pods are in it as those pods tell, and grow old where they do not."""
        slots = self._executor.slots
        ranks = tuple(
            RankHealth(rank, state.name.lower(), age, beats, node_rank=self._config.node_of(rank))
            for rank in range(slots.size)
            for age, beats, state in [slots.read(rank)]
        )
        if self._lost is not None:
            return EngineHealth(alive=False, reason=self._lost.reason, ranks=ranks)
        for item in ranks:
            loading = item.state == RankState.LOADING.name.lower()
            if not loading and item.age_seconds > self._config.hang_timeout_seconds:
                reason = f"rank {item.rank} gave no sign of life for {item.age_seconds:.1f} s"
                return EngineHealth(alive=False, reason=reason, ranks=ranks)
        return EngineHealth(alive=True, reason="every rank gives signs of life", ranks=ranks)

    async def wait_lost(self) -> GroupLost:
        """Returns when the group has ended, with which rank and why; after `stop` too."""
        await self._ended.wait()
        assert self._lost is not None
        return self._lost

    async def wait_leaving(self) -> None:
        """Returns when another pod of the group was told to stop: the whole group should drain. Else never."""
        crew = self._executor.crew
        await (crew.leaving if crew is not None else asyncio.Event()).wait()

    async def wait_hurry(self) -> None:
        """Returns when it was told twice. Else never."""
        crew = self._executor.crew
        await (crew.hurry if crew is not None else asyncio.Event()).wait()

    async def stop(self) -> None:
        """End every request with GroupLostError and the ranks with them. May be called twice."""
        self._end(_STOPPED)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._executor.stop()

    async def _send(self, request: AddRequest) -> None:
        try:
            await self._executor.leader.send(request)
        except ChannelClosedError:
            raise GroupLostError(await self.wait_lost()) from None

    async def _read_reports(self) -> None:
        """Rank 0's reports to their streams, until its end closes; the supervisor then says why. What is no report
        closes it as well: a group that nobody reads would live on and answer nobody."""
        try:
            while True:
                report = await self._executor.leader.receive()
                assert isinstance(report, StepReport)
                self._stats = report.stats
                for output in report.outputs:
                    if (stream := self._streams.get(output.request_id)) is not None:
                        stream.put_nowait(output)
        except ChannelClosedError as error:
            logger.info("no more reports: %s", error)
        finally:
            self._executor.leader.close()

    def _end(self, lost: GroupLost) -> None:
        if self._lost is None:
            self._lost = lost
            self._ended.set()
            for stream in self._streams.values():
                stream.put_nowait(lost)


async def _load(executor: Executor) -> ModelInfo:
    loaded = await _from_each(executor, Loaded)
    blocks = min(message.num_kv_blocks for message in loaded)
    for link in executor.links:
        link.post(Begin(num_kv_blocks=blocks))
    return (await _from_each(executor, Ready))[0].info


async def _unless_leaving(executor: Executor, load: Coroutine[Any, Any, ModelInfo]) -> ModelInfo:
    """Raises GroupLostError where another pod is told to stop meanwhile: there is nothing to drain yet."""
    if executor.crew is None:
        return await load
    loading, leaving = asyncio.create_task(load), asyncio.create_task(executor.crew.leaving.wait())
    try:
        await asyncio.wait({loading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            raise GroupLostError(GroupLost(rank=None, reason="another pod of the group was told to stop"))
        return await loading
    finally:
        loading.cancel()
        leaving.cancel()
        await asyncio.gather(loading, leaving, return_exceptions=True)


async def _from_each(executor: Executor, kind: type[T]) -> list[T]:
    """The next message of every rank. A refusal outweighs the losses that it causes among the others."""
    results = await asyncio.gather(*(_expect(link, kind) for link in executor.links), return_exceptions=True)
    for result in results:
        if isinstance(result, ConfigError):
            raise result
    if any(isinstance(result, ChannelClosedError) for result in results):
        raise GroupLostError(await asyncio.shield(executor.lost))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, kind)]


async def _expect(link: RankLink | RemoteLink, kind: type[T]) -> T:
    message: FromRank = await link.receive()
    if isinstance(message, Refused):
        raise ConfigError(message.sentence)
    assert isinstance(message, kind), f"{type(message).__name__} where {kind.__name__} was due"
    return message
