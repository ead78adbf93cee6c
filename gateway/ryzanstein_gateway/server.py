"""Puts the gateway together, runs it, and lets it end without a dropped request.

Knows every part and the order of their beginnings and ends; no part knows this module.
"""

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack
from typing import Any, Final

from ryzanstein.v1.server import Server as GrpcServer
from ryzanstein.v1.server import address_of, reserve
from ryzanstein_gateway.account import Account
from ryzanstein_gateway.admission import Admission, Shares
from ryzanstein_gateway.app import App
from ryzanstein_gateway.auth import KeyRing
from ryzanstein_gateway.board import Board
from ryzanstein_gateway.checks import Checker
from ryzanstein_gateway.endpoints import EndpointSlice
from ryzanstein_gateway.exemplars import Exemplars, Illustrated
from ryzanstein_gateway.exposition import families
from ryzanstein_gateway.fleet import Fleet, RouteStore
from ryzanstein_gateway.gauges import View
from ryzanstein_gateway.grpc_api import Door, GrpcApi, limits
from ryzanstein_gateway.health import HealthServer, Heartbeat
from ryzanstein_gateway.http_server import HttpServer, http_server, listen
from ryzanstein_gateway.kube import Reflector, Source, open_client
from ryzanstein_gateway.level import Level
from ryzanstein_gateway.line import capacity_of
from ryzanstein_gateway.member import DEBUG, Channel, Place, Report, bind_shared
from ryzanstein_gateway.metrics import HEARD, UNHEARD, Metrics
from ryzanstein_gateway.operators import Operators
from ryzanstein_gateway.overview import Reader
from ryzanstein_gateway.page_state import PageState
from ryzanstein_gateway.pipeline import Pipeline
from ryzanstein_gateway.proxy import Proxy
from ryzanstein_gateway.quota import Quota
from ryzanstein_gateway.routes import ConfigMap
from ryzanstein_gateway.settings import ALL_NAMESPACES, Settings
from ryzanstein_gateway.shared_table import SharedTable
from ryzanstein_gateway.telling import Teller
from ryzanstein_gateway.tls import certificate_of, grpc_credentials
from ryzanstein_gateway.upstream import Pool
from ryzanstein_gateway.wake import Waker
from ryzanstein_worker.contract import LABEL_SERVICE, ROUTES_CONFIG_MAP

_BEAT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05
"""How long news may wait for the parent."""

_log = logging.getLogger(__name__)


class Gateway:
    """One gateway process: alone, or in its `place` among several, where the parent answers probes and metrics.

    `port`, `grpc_port` and `health_port` are the real ones once `started` is set."""

    def __init__(self, settings: Settings, place: Place | None = None, level: Level | None = None) -> None:
        self.started = asyncio.Event()
        self.draining = False
        self.admission: Admission
        self._account: Account
        self._settings = settings
        self._fleet = Fleet()
        self._keys = KeyRing(settings.keysets_dir)
        self._metrics = Metrics()
        self._exemplars = Exemplars()
        self._heartbeat = Heartbeat()
        self._reflectors: list[Reflector[Any]] = []
        self._operators = Operators(settings.operator_url, settings.operator_key_file)
        self._name = f"{socket.gethostname()}/{settings.slot}"
        self._board = Board(lambda: self.admission.traffic(self._account.recent), settings.shared_dir, settings.slot)
        self._teller = Teller(self._operators, self._fleet, self._name, self._why_unlisted, self._board.all)
        self._view = self._look()
        self._place = place
        self._level = level or Level(settings.log_level)
        self._certificate = certificate_of(settings)
        # Several share a port that is given; alone it is ours from now on.
        self._grpc_socket = None if place else reserve(settings.host, settings.grpc_port)
        self.grpc_port: int = self._grpc_socket.getsockname()[1] if self._grpc_socket else settings.grpc_port
        self._socket = bind_shared(settings.host, place.port) if place else listen(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        self._health = None if place else self._health_server()
        self.health_port = self._health.port if self._health else 0

    def why_not_ready(self) -> str:
        """Empty when requests may come, else why not. Any thread may ask."""
        if self.draining:
            return "draining"
        return self._why_unlisted()

    def _why_unlisted(self) -> str:
        if not self._reflectors or not all(reflector.synced for reflector in self._reflectors):
            return "routes and endpoints have not been listed yet"
        return ""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain. Raises what ends a part that must not end."""
        async with AsyncExitStack() as stack:
            if self._health:
                self._health.start()
                stack.callback(self._health.stop)
            api = await stack.enter_async_context(await open_client())
            pool = await stack.enter_async_context(Pool(self._metrics.connect.observe))
            self._keys.refresh()
            self._watch(api)
            self.admission = self._make_admission(stack)
            tracing = self._tracing(stack)
            self._account = Account(self._metrics, self._exemplars, tracing)
            background = await stack.enter_async_context(asyncio.TaskGroup())
            chores = [background.create_task(reflector.run()) for reflector in self._reflectors]
            chores += [background.create_task(self._beat()), background.create_task(self._keys.watch())]
            chores.append(background.create_task(self._board.run()))
            checker = Checker(self._fleet, self._metrics, self._settings.check_seconds)
            chores.append(background.create_task(checker.run()))
            if self._settings.slot == 0:
                chores.append(background.create_task(self._teller.run()))
            if self._certificate:
                watch = self._certificate.watch(warn=self._settings.slot == 0)
                chores.append(background.create_task(watch))
            if self._place:
                chores.append(background.create_task(self._tell(await Channel.open(self._place.channel), stop)))
            proxy = Proxy(self._fleet, pool, self._metrics, self._settings)
            pipeline = Pipeline(self._fleet, proxy, self._metrics, self.admission, self._account, tracing)
            self._page_state = self._page(stack)
            app = self._app(pipeline, self._page_state)
            server, grpc_server = http_server(app, self._settings, self._certificate), self._grpc_server(app, pipeline)
            drain = background.create_task(self._drain(stop, server, grpc_server))
            if await self._may_listen(stop):
                await self._listen_for_grpc(grpc_server)
                await server.serve(sockets=[self._socket])
            if self.draining:
                await drain
            for task in (*chores, drain):
                task.cancel()

    def _watch(self, api: Any) -> None:
        seconds = self._settings.watch_seconds
        routes = Source(
            name="routes",
            path=f"/api/v1/namespaces/{self._settings.namespace}/configmaps",
            item=ConfigMap,
            field_selector=f"metadata.name={ROUTES_CONFIG_MAP}",
        )
        self._reflectors.append(Reflector(api, routes, RouteStore(self._fleet), seconds))
        for namespace in self._settings.watch_namespaces:
            where = "" if namespace == ALL_NAMESPACES else f"/namespaces/{namespace}"
            slices = Source(
                name=f"endpointslices/{namespace}",
                path=f"/apis/discovery.k8s.io/v1{where}/endpointslices",
                item=EndpointSlice,
                label_selector=LABEL_SERVICE,
            )
            self._reflectors.append(Reflector(api, slices, self._fleet.add_store(), seconds))

    def _make_admission(self, stack: AsyncExitStack) -> Admission:
        settings = self._settings
        shared = settings.shared_dir
        table = SharedTable.attach(shared / "limits", settings.slot) if shared else SharedTable.private()
        stack.callback(table.close)
        waker = Waker(self._operators, self._name, told=self._note_call)
        stack.push_async_callback(waker.close)
        return Admission(
            lambda route: capacity_of(self._fleet.candidates(route)),
            Quota(table, settings.replicas),
            waker,
            self._metrics,
            shares=Shares(settings.replicas, settings.processes),
            high=settings.high_priority_key_sets,
        )

    def _note_call(self, heard: bool) -> None:
        self._metrics.wake_calls.labels(HEARD if heard else UNHEARD).inc()

    def _tracing(self, stack: AsyncExitStack) -> Any:
        """Made only where traces are wanted: its libraries are many."""
        if not self._settings.traces:
            return None
        from ryzanstein_gateway.tracing import Tracing

        tracing = Tracing(self._settings.slot, os.environ)
        stack.push_async_callback(tracing.close)
        return tracing

    def _look(self) -> View:
        return View(
            endpoints_ready=lambda: [
                (route.model, self._fleet.ready_endpoints(route)) for route in self._fleet.table.by_model.values()
            ],
            watch_ages=lambda: [(one.source.name, one.age()) for one in self._reflectors],
            routes_stale=lambda: self._fleet.table_is_stale,
            standings=self._fleet.standings,
            views_told_at=lambda: self._teller.told_at,
            certificate_expires_at=lambda: self._certificate.expires_at if self._certificate else None,
        )

    def _health_server(self) -> HealthServer:
        self._metrics.registry.register(self._view)
        return HealthServer(
            self._settings.host,
            self._settings.health_port,
            live=self._heartbeat,
            ready=self.why_not_ready,
            registry=Illustrated(self._metrics.registry, self._exemplars),
        )

    async def _may_listen(self, stop: asyncio.Event) -> bool:
        """Alone: at once, readiness keeps requests away. One of several: not before the routes are known, since the
        pod is ready by the others; false when it is told to stop before."""
        while self._place and self.why_not_ready():
            if stop.is_set():
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def _tell(self, channel: Channel, stop: asyncio.Event) -> None:
        """Report to the parent each second, and what is new at once; drain when the parent has died."""
        gone = asyncio.create_task(channel.obey(lambda word: self._level.debug(word == DEBUG, say=False)))
        said, said_at = None, 0.0
        try:
            while not gone.done():
                now, reason = asyncio.get_running_loop().time(), self.why_not_ready()
                if reason != said or now - said_at >= _BEAT_SECONDS:
                    channel.send(Report(reason, families(self._view), self._exemplars.take_new()))
                    said, said_at = reason, now
                await asyncio.wait([gone], timeout=_LOOK_SECONDS)
            _log.error("the parent has died: draining")
            stop.set()
        finally:
            gone.cancel()

    def _page(self, stack: AsyncExitStack) -> PageState:
        reader = Reader(self._operators)
        stack.push_async_callback(reader.close)
        return PageState(self._fleet, self._board.all, reader.now, socket.gethostname())

    def _app(self, pipeline: Pipeline, page: PageState) -> App:
        return App(
            self._fleet,
            pipeline,
            self._metrics,
            self._settings,
            page=page,
            digests=lambda: self._keys.digests,
            draining=lambda: self.draining,
        )

    def _grpc_server(self, app: App, pipeline: Pipeline) -> GrpcServer:
        door = Door(self._settings, lambda: self._keys.digests, self._metrics, pipeline)
        return GrpcServer(GrpcApi(pipeline, app.models, self._settings), limits(self._settings), [door])

    async def _listen_for_grpc(self, server: GrpcServer) -> None:
        address = address_of(self._settings.host, self.grpc_port)
        self.grpc_port = await server.start(address, grpc_credentials(self._certificate))
        if self._grpc_socket:
            self._grpc_socket.close()

    async def _beat(self) -> None:
        while True:
            self._heartbeat.beat()
            self.started.set()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _drain(self, stop: asyncio.Event, server: HttpServer, grpc_server: GrpcServer) -> None:
        """Not ready at once; new connections are taken until every proxy has heard; then running requests end."""
        await stop.wait()
        self.draining = True
        _log.info("draining: not ready, accepting for %g s more", self._settings.drain_grace_seconds)
        await grpc_server.leave()
        await asyncio.sleep(self._settings.drain_grace_seconds)
        server.should_exit = True
        await grpc_server.stop(self._settings.drain_seconds)
