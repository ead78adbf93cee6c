"""The life of the worker's parent process: sockets, engine, server, drain, exit code.

Order of the start: bind the sockets (a port in use is told at once), answer probes, load the model, accept requests.
The APIs' sockets are bound but do not listen before the model is loaded, so that a connection is refused: whoever
knocked knows that nothing was started.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
import uvloop

from ryzanstein.v1.server import Server as GrpcServer
from ryzanstein.v1.server import address_of, reserve
from ryzanstein_worker.config import ServeConfig
from ryzanstein_worker.contract import EXIT_GROUP_LOST
from ryzanstein_worker.engine.engine import Engine
from ryzanstein_worker.engine.status import GroupLost, GroupLostError
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.server.accelerator import Guard
from ryzanstein_worker.server.api import build_app
from ryzanstein_worker.server.chat_template import ChatTemplate, read_chat_template
from ryzanstein_worker.server.gate import Gate
from ryzanstein_worker.server.grpc_api import LIMITS, GrpcApi, Traced
from ryzanstein_worker.server.health import Capacity, HealthServer, Probes
from ryzanstein_worker.server.protocol import BoundedHttpProtocol
from ryzanstein_worker.server.quarantine import Quarantine
from ryzanstein_worker.server.service import Service
from ryzanstein_worker.server.tokenizer import Tokenizer
from ryzanstein_worker.telemetry.metrics import ServerMetrics
from ryzanstein_worker.telemetry.termination import write_termination_log
from ryzanstein_worker.telemetry.tracing import Tracing, is_enabled

DRAIN_GRACE_SECONDS = 5.0
"""How long a draining worker still accepts requests, until those who route have seen that it is not ready; at most
a quarter of the time it has for the drain itself."""
FAREWELL_SECONDS = 1.0
"""How long the last bytes of ended requests may take to leave."""
LISTEN_BACKLOG = 1024

_log = logging.getLogger(__name__)


def run(config: ServeConfig) -> int:
    """Serve until SIGTERM, SIGINT or the loss of the engine; the process' exit code.

    Raises:
        ConfigError: only the user can mend it; the sentence says how.
    """
    with contextlib.ExitStack() as stack:
        api_socket = stack.enter_context(contextlib.closing(_bind(config.host, config.port)))
        grpc_socket = stack.enter_context(contextlib.closing(_bind_shared(config.host, config.grpc_port)))
        return uvloop.run(_Worker(config, api_socket, grpc_socket.getsockname()[1]).run())


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals mean draining here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Worker:
    def __init__(self, config: ServeConfig, api_socket: socket.socket, grpc_port: int) -> None:
        self._config = config
        self._socket = api_socket
        self._grpc_port = grpc_port
        engine = config.engine
        self._metrics = ServerMetrics(config.served_model_name)
        self._guard = Guard(engine.device, self._metrics)
        capacity = Capacity(engine.max_num_seqs, engine.max_queued_requests)
        self._probes = Probes(capacity, nnodes=engine.nnodes, accelerator_fault=self._guard.fault)
        model_dir = config.engine.model_path
        # Before the engine: what is wrong with these files is told without the wait for the weights.
        self._tokenizer = Tokenizer(model_dir)
        self._template = ChatTemplate(read_chat_template(model_dir), self._tokenizer.special)
        # By name and port, for workers on one machine share the directory.
        directory = None if config.state_dir is None else Path(config.state_dir)
        self._quarantine = Quarantine(directory, f"{config.served_model_name} {config.port}")
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # a second signal: end now
        self._is_signalled = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        config = self._config
        health = HealthServer(config.host, config.health_port, self._probes, self._metrics.render)
        _log.info("answering probes", extra={"host": config.host, "port": health.port})
        following = asyncio.create_task(self._probes.follow_loop())
        try:
            with self._guard:
                return await self._guard.leave(await self._live(), self._stop.wait)
        finally:
            following.cancel()
            health.close()

    async def _live(self) -> int:
        """From the load of the model to the end of the engine; the exit code."""
        try:
            async with self._engine() as engine:
                code = 0 if engine is None else await self._serve(engine)
            if code == 0:  # else what was running stays written down, for the next start
                self._quarantine.close()
            return code
        except GroupLostError as error:
            return _lost(error.lost)
        except ConfigError:
            if not self._guard.fault():
                raise
            _log.exception("the engine cannot start")  # on a device that is broken, which no user can mend
            return EXIT_GROUP_LOST

    def _signalled(self) -> None:
        # Its own first signal is no second one where another pod of the group was told before it: all pods of a group
        # are told when it is deleted, in any order.
        (self._hurry if self._is_signalled else self._stop).set()
        self._is_signalled = True

    @contextlib.asynccontextmanager
    async def _engine(self) -> AsyncIterator[Engine | None]:
        """The loaded engine; None if a signal came first."""
        start = asyncio.create_task(Engine.start(self._config.engine, self._config.group))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not start.done():
            _log.info("stopped while the model was loading")
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            yield None
            return
        engine = await start
        try:
            yield engine
        finally:
            await engine.stop()

    async def _serve(self, engine: Engine) -> int:
        config = self._config
        self._metrics.watch(engine.stats)
        service = Service(
            config.served_model_name, engine, self._tokenizer, self._template, self._metrics, self._quarantine
        )
        await self._template.warm_up()
        app = build_app(service, self._probes, self._metrics)
        tracing = Tracing(service.name) if is_enabled() else None
        gate = Gate(app if tracing is None else tracing.around(app))
        api = GrpcApi(service, gate)
        server, grpc_server = _uvicorn(gate), GrpcServer(api if tracing is None else Traced(api, tracing), LIMITS)
        await grpc_server.start(address_of(config.host, self._grpc_port))
        self._socket.listen(LISTEN_BACKLOG)  # before anybody is told: the server's own start comes a moment later
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        self._probes.engine, self._probes.phase = engine, "serving"
        ports = {"port": self._socket.getsockname()[1], "grpc_port": self._grpc_port}
        _log.info("serving", extra={"model": service.name, "host": config.host} | ports)
        try:
            return await self._until_the_end(engine, gate, serving, grpc_server)
        finally:
            server.should_exit = True
            await asyncio.gather(serving, grpc_server.stop(None), return_exceptions=True)
            await self._template.close()
            if tracing is not None:
                await tracing.close()

    async def _until_the_end(
        self, engine: Engine, gate: Gate, serving: "asyncio.Task[None]", grpc_server: GrpcServer
    ) -> int:
        stop = asyncio.create_task(self._stop.wait())
        lost = asyncio.create_task(engine.wait_lost())
        leaving = asyncio.create_task(self._follow_leaving(engine))
        try:
            await asyncio.wait({stop, lost, serving}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done() and not lost.done():
                await grpc_server.leave()
                drained = asyncio.create_task(self._drain(gate))
                await asyncio.wait({drained, lost}, return_when=asyncio.FIRST_COMPLETED)
                if drained.done():
                    await self._cut(engine, gate)
                    return 0
                drained.cancel()
            gate.close()
            await _farewell(gate)
            return _lost(lost.result()) if lost.done() else 1
        finally:
            stop.cancel()
            lost.cancel()
            leaving.cancel()

    async def _follow_leaving(self, engine: Engine) -> None:
        """That another pod of the group was told to stop is told to all of it."""
        await engine.wait_leaving()
        self._stop.set()
        await engine.wait_hurry()
        self._hurry.set()

    async def _drain(self, gate: Gate) -> None:
        """Not ready at once, closed after a grace; returns when the last request is done, or time is up."""
        self._probes.phase = "draining"
        seconds = self._config.drain_seconds
        _log.info("draining", extra={"in_flight": gate.in_flight, "drain_seconds": seconds})
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({hurry}, timeout=min(DRAIN_GRACE_SECONDS, seconds / 4))
        gate.close()
        idle = asyncio.create_task(gate.wait_idle())
        try:
            await asyncio.wait({hurry, idle}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            idle.cancel()

    async def _cut(self, engine: Engine, gate: Gate) -> None:
        """End what outlasted the drain; its clients are told."""
        if gate.in_flight:
            _log.warning("ending requests that did not finish in time", extra={"in_flight": gate.in_flight})
            await engine.stop()
            await _farewell(gate)
        _log.info("drained")


async def _farewell(gate: Gate) -> None:
    """Let each stream of an ended engine send its error event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await gate.wait_idle()


def _lost(lost: GroupLost) -> int:
    _log.error("the engine is lost: %s", lost.reason, extra={"rank": lost.rank})
    write_termination_log(f"The engine is lost: {lost.reason}.")
    return EXIT_GROUP_LOST


def _uvicorn(gate: Gate) -> _Server:
    return _Server(
        uvicorn.Config(
            gate,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=LISTEN_BACKLOG,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
        )
    )


def _bind_shared(host: str, port: int) -> socket.socket:
    """A bound socket for gRPC, which binds a second time when it starts. Raises ConfigError."""
    try:
        return reserve(host, port)
    except OSError as error:
        raise ConfigError(f"Cannot listen for gRPC on {host} port {port}: {error.strerror}.") from None


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host} port {port}: {error.strerror}.") from None
    return bound
