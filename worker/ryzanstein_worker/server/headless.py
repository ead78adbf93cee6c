"""The life of a pod of a group that serves no API: probes, its ranks, signals, exit code. Node rank 0 serves.

SIGTERM here alone makes the whole group drain, for its ranks cannot be spared: node rank 0 is told, ends its streams or
hands them on, and then ends the group. A pod that gets it together with node rank 0 goes on until then just the same.
"""

import asyncio
import logging
import signal
from functools import partial

import uvloop

from ryzanstein_worker.config import GroupConfig, ServeConfig
from ryzanstein_worker.contract import EXIT_CONFIG
from ryzanstein_worker.engine.member import Ended, Member
from ryzanstein_worker.server.accelerator import Guard
from ryzanstein_worker.server.facts import heartbeats, worker_info
from ryzanstein_worker.server.health import Capacity, HealthServer, Probes
from ryzanstein_worker.telemetry.metrics import ServerMetrics
from ryzanstein_worker.telemetry.termination import write_termination_log

_log = logging.getLogger(__name__)


def run(config: ServeConfig, group: GroupConfig) -> int:
    """Work until the group ends; the process' exit code.

    Raises:
        ConfigError: only the user can mend it; the sentence says how.
    """
    return uvloop.run(_Headless(config, group).run())


class _Headless:
    def __init__(self, config: ServeConfig, group: GroupConfig) -> None:
        engine = config.engine
        self._config = config
        self._group = group
        self._metrics = ServerMetrics(config.served_model_name, serves=False)
        self._guard = Guard(engine.device, self._metrics)
        capacity = Capacity(engine.max_num_seqs, engine.max_queued_requests)
        self._probes = Probes(capacity, nnodes=engine.nnodes, accelerator_fault=self._guard.fault)
        self._signals: asyncio.Queue[None] = asyncio.Queue()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.put_nowait, None)
        config = self._config
        health = HealthServer(config.host, config.health_port, self._probes, self._metrics.expose)
        _log.info("answering probes", extra={"host": config.host, "port": health.port})
        following = asyncio.create_task(self._probes.follow_loop())
        try:
            with self._guard:
                code = await self._work(Member(config.engine, self._group))
                return await self._guard.leave(code, self._signals.get)
        finally:
            following.cancel()
            health.close()

    async def _work(self, member: Member) -> int:
        running = asyncio.create_task(member.run())
        helpers = [asyncio.create_task(self._obey(member, running)), asyncio.create_task(self._show(member))]
        try:
            return _tell(await running)
        except asyncio.CancelledError:
            _log.info("stopped before the group started")
            return 0
        finally:
            for helper in helpers:
                helper.cancel()

    async def _obey(self, member: Member, running: "asyncio.Task[Ended]") -> None:
        """Each signal; the second is in a hurry."""
        hurry = False
        while True:
            await self._signals.get()
            if not member.leave(hurry=hurry):
                running.cancel()
                return
            self._probes.phase = "draining"
            _log.info("leaving: node rank 0 is asked to drain the group", extra={"hurry": hurry})
            hurry = True

    async def _show(self, member: Member) -> None:
        """Ready once this pod's ranks are."""
        await member.ready.wait()
        self._probes.engine = member
        if member.info is not None:
            self._metrics.show(worker_info(self._config, member.info))
        self._metrics.watch_ranks(member.numbers, partial(heartbeats, member))
        if self._probes.phase == "loading":
            self._probes.phase = "serving"
        _log.info("serving", extra={"node_rank": self._group.node_rank, "epoch": member.epoch})


def _tell(ended: Ended) -> int:
    """The last line of the log, and the termination log."""
    if ended.code == 0:
        _log.info("the group has ended: %s", ended.reason)
        return 0
    sentence = ended.reason if ended.code == EXIT_CONFIG else f"The engine is lost: {ended.reason}."
    _log.error(sentence[:1].lower() + sentence[1:].rstrip("."), extra={"rank": ended.rank})
    write_termination_log(sentence)
    return ended.code
