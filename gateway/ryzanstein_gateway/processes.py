"""The parent of several gateway processes that share one port.

Starts them, replaces one that dies or hangs, answers probes and metrics for all, passes the order to stop on. It serves
no request itself, so it imports nothing that does. Each member listens on a socket of its own (SO_REUSEPORT), and only
once it knows the routes: the kernel deals connections out evenly, and none waits for a member that is gone. One
listening socket that all inherit was measured to deal a burst to whoever wakes first: 326 of 400 to one of four.
"""

import asyncio
import logging
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from ryzanstein_gateway.board import forget
from ryzanstein_gateway.exemplars import Exemplars, Illustrated
from ryzanstein_gateway.exposition import Family, Summed, bury
from ryzanstein_gateway.health import HealthServer, Heartbeat
from ryzanstein_gateway.level import Level
from ryzanstein_gateway.member import DEBUG, MAX_REPORT_BYTES, USUAL, Report, bind_shared, read_report
from ryzanstein_gateway.metrics import IN_FLIGHT
from ryzanstein_gateway.settings import Settings

START_SECONDS: Final = 60.0
"""A member that has said nothing for so long since its start will not speak any more."""
STEADY_SECONDS: Final = 10.0
"""A member that lived for so long did not fail to start."""
HOPELESS_STARTS: Final = 5
_LONGEST_PAUSE: Final = 30.0
_SLACK_SECONDS: Final = 5.0
_BEAT_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


def restart_pause(failures: int) -> float:
    """Seconds before a new start, after so many deaths in a row soon after a start: 0, 0, 0.5, 1, 2 ... 30."""
    return 0.0 if failures <= 1 else min(_LONGEST_PAUSE, 0.5 * 2.0 ** min(failures - 2, 16))


def why_not_ready(reports: Iterable[Report | None], *, draining: bool) -> str:
    """Empty when requests may come, else why not. One member that takes requests is enough: the others, as long as
    they do not know the routes, do not listen, so no connection finds its way to them."""
    if draining:
        return "draining"
    reasons = {report.not_ready if report else "a process is starting" for report in reports}
    return "" if "" in reasons else ", ".join(sorted(reasons))


class Slot:
    """One of the places for a member, and who is in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.report: Report | None = None
        self.writer: asyncio.StreamWriter | None = None
        """To its member."""
        self.heard = time.monotonic()
        self.failures = 0
        """Deaths in a row soon after the start."""


class Parent:
    """Keeps `settings.processes` members running."""

    def __init__(self, settings: Settings, level: Level | None = None) -> None:
        self._settings = settings
        self._level = level or Level(settings.log_level)
        self._level.changed = self._pass_on
        self._slots = [Slot(number) for number in range(settings.processes)]
        self._draining = asyncio.Event()
        self._hopeless = asyncio.Event()
        self._heartbeat = Heartbeat()
        self._exemplars = Exemplars()
        self.registry = CollectorRegistry()
        self._restarts = Counter(
            "ryzanstein_gateway_process_restarts", "Gateway processes that died and were replaced.",
            registry=self.registry,
        )  # fmt: skip
        self._lost = Counter(
            "ryzanstein_gateway_requests_lost", "Requests in flight in a gateway process that died.",
            registry=self.registry,
        )  # fmt: skip
        ready = Gauge(
            "ryzanstein_gateway_processes_ready", "Gateway processes that take requests.", registry=self.registry
        )
        ready.set_function(lambda: sum(slot.report is not None and not slot.report.not_ready for slot in self._slots))

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop` is set and every member has drained: 0; 1 when no member can be started."""
        settings = self._settings
        with (
            bind_shared(settings.host, settings.port) as held,
            tempfile.TemporaryDirectory(prefix="ryzanstein-") as name,
        ):
            self._port: int = held.getsockname()[1]
            self._directory = Path(name)
            self.registry.register(Summed(self._directory, self._views))
            health = HealthServer(
                settings.host, settings.health_port, live=self._why_not_live, ready=self._why_not_ready,
                registry=Illustrated(self.registry, self._exemplars),
            )  # fmt: skip
            health.start()
            beat = asyncio.create_task(self._beat())
            keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
            try:
                await self._run(stop, keepers)
            finally:
                for task in (beat, *keepers):
                    task.cancel()
                await asyncio.gather(beat, *keepers, return_exceptions=True)
                health.stop()
        return int(self._hopeless.is_set())

    async def _run(self, stop: asyncio.Event, keepers: "list[asyncio.Task[None]]") -> None:
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._hopeless)]
        await asyncio.wait([*ends, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        self._draining.set()
        _log.info("draining %d processes", sum(slot.process is not None for slot in self._slots))
        for slot in self._slots:
            _send(slot, signal.SIGTERM)
        limit = self._settings.drain_grace_seconds + self._settings.drain_seconds + _SLACK_SECONDS
        _, late = await asyncio.wait(keepers, timeout=limit)
        if late:
            _log.error("%d processes have not ended within %g s: killing them", len(late), limit)
            for slot in self._slots:
                _send(slot, signal.SIGKILL)
            await asyncio.wait(late)
        for keeper in keepers:
            keeper.result()

    async def _keep(self, slot: Slot) -> None:
        """Keep a member in a slot until the drain."""
        while not self._draining.is_set():
            began = time.monotonic()
            try:
                code = await self._live(slot)
            except OSError as error:  # the machine has no process or descriptor left
                _log.error("process %d cannot be started: %s", slot.number, error.strerror)
                code = 1
            if self._draining.is_set():
                return
            self._restarts.inc()
            slot.failures = 0 if time.monotonic() - began >= STEADY_SECONDS else slot.failures + 1
            pause = restart_pause(slot.failures)
            _log.error("process %d ended with code %d, a new one starts in %g s", slot.number, code, pause)
            if all(one.failures >= HOPELESS_STARTS for one in self._slots):
                _log.error("no process lives longer than %g s: giving up", STEADY_SECONDS)
                self._hopeless.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), pause)

    async def _live(self, slot: Slot) -> int:
        """One member's life in a slot, from its start to its end: its exit code, negative for a signal."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ryzanstein_gateway", "member", "--slot", str(slot.number)),
                *("--port", str(self._port), "--directory", str(self._directory), "--channel", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
            )
        slot.process, slot.report, slot.heard = process, None, time.monotonic()
        if self._draining.is_set():
            _send(slot, signal.SIGTERM)
        try:
            reader, slot.writer = await asyncio.open_connection(sock=ours, limit=MAX_REPORT_BYTES)
            self._pass_on(self._level.debugging, [slot])
            await self._listen(slot, reader)
            slot.writer.close()
            return await process.wait()
        finally:
            if process.returncode is None:
                _send(slot, signal.SIGKILL)
                await process.wait()
            slot.process, slot.report, slot.writer = None, None, None
            self._lost.inc(bury(self._directory, slot.number, IN_FLIGHT))
            forget(self._directory, slot.number)

    async def _listen(self, slot: Slot, reader: asyncio.StreamReader) -> None:
        """Take a member's reports until it ends. One that falls silent is killed: its clients wait in vain."""
        while True:
            limit = START_SECONDS if slot.report is None else self._settings.stuck_seconds
            try:
                async with asyncio.timeout(limit):
                    report = await read_report(reader)
            except (TimeoutError, OSError, ValueError, msgspec.MsgspecError) as error:
                _log.error("process %d: %s for %g s: killing it", slot.number, type(error).__name__, limit)
                _send(slot, signal.SIGKILL)
                return
            if report is None:
                return
            slot.report, slot.heard = report, time.monotonic()
            self._exemplars.add(report.exemplars)

    def _pass_on(self, debugging: bool, slots: Iterable[Slot] | None = None) -> None:
        """Tell members which level to log at: all, or one that has just started. A signal could come before a member
        is ready for it, and end it. One that has hung up hears nothing more: uvloop raises where it is written to."""
        for slot in self._slots if slots is None else slots:
            if slot.writer is not None and not slot.writer.is_closing():
                slot.writer.write(f"{DEBUG if debugging else USUAL}\n".encode())

    async def _beat(self) -> None:
        while True:
            self._heartbeat.beat()
            await asyncio.sleep(_BEAT_SECONDS)

    def _views(self) -> list[tuple[Family, ...]]:
        return [report.view for report in [slot.report for slot in self._slots] if report]

    def _why_not_live(self) -> str:
        """The parent turns, and no member has been silent for longer than it takes to replace it. Any thread."""
        limit = START_SECONDS + _LONGEST_PAUSE
        late = [slot.number for slot in self._slots if time.monotonic() - slot.heard > limit]
        return self._heartbeat() or (f"processes {late} are silent" if late else "")

    def _why_not_ready(self) -> str:
        return why_not_ready([slot.report for slot in self._slots], draining=self._draining.is_set())


def _send(slot: Slot, number: signal.Signals) -> None:
    if slot.process is not None:
        with suppress(ProcessLookupError):
            slot.process.send_signal(number)
