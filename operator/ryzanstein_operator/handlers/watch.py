"""kopf as the watcher: settings, credentials, and one adapter that hands each event on. No other module knows kopf.

Only `on.event` handlers: kopf writes nothing, adds no finalizer and keeps no annotation.
"""

import asyncio
import itertools
import logging
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import kopf

from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.heartbeat import Freshness, version_of
from ryzanstein_operator.cluster.observe import LIST_CHUNK, selectors
from ryzanstein_operator.cluster.resources import LEASES, NODES, ROUTES, WATCHED, Resource
from ryzanstein_operator.handlers.loop import Loop
from ryzanstein_operator.handlers.session import session
from ryzanstein_operator.settings import Settings

SERVER_SECONDS: Final = 300
"""The API server ends a watch after this; the next one goes on from the last version."""
CLIENT_SECONDS: Final = 330.0
INACTIVITY_SECONDS: Final = 70.0
"""The API server sends a bookmark a minute: a stream that is silent for longer is dead, and kopf opens another."""
IDLE_SECONDS: Final = 0.2
"""kopf holds a task and a queue for each object that it has seen an event of, for so long after the last one."""
END_SECONDS: Final = 5.0
"""For kopf to end its tasks, once one of them has ended."""
_BACKOFFS: Final = (0.5, 1.0, 2.0, 3.0, 5.0)


class Backoffs:
    """Endless: after kopf's own few, an API server that answers 503 for a minute would end the operator."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(_BACKOFFS, itertools.repeat(_BACKOFFS[-1]))


class NoMemory(kopf.DiffBaseStorage):
    """Nothing is remembered of an object: kopf would copy each event's object whole, to compare it for handlers of
    changes that we do not have."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """Every timeout set, nothing posted, no peering, no scan for namespaces or CRDs: a namespaced Role is enough."""
    result = kopf.OperatorSettings()
    result.scanning.disabled = True
    result.posting.enabled = False
    result.peering.standalone = True
    result.persistence.diffbase_storage = NoMemory()
    result.watching.server_timeout = SERVER_SECONDS
    result.watching.client_timeout = CLIENT_SECONDS
    result.watching.inactivity_timeout = INACTIVITY_SECONDS
    result.watching.chunk_size = LIST_CHUNK
    result.networking.connect_timeout = 5.0
    result.networking.request_timeout = 30.0
    result.networking.error_backoffs = Backoffs()
    result.queueing.exit_timeout = 0.5
    result.queueing.idle_timeout = IDLE_SECONDS
    result.process.ultimate_exiting_timeout = None  # the kubelet sees to that
    for resource in WATCHED:
        query = selectors(resource)
        place = (resource.group, resource.version, resource.plural)
        if "labelSelector" in query:
            result.watching.label_selectors[place] = query["labelSelector"]
        if resource is ROUTES:
            result.watching.field_selectors[place] = query["fieldSelector"]
        if resource is LEASES:
            result.watching.field_selectors[place] = f"metadata.name={settings.lease_name}"
    return result


@dataclass(frozen=True)
class Scope:
    """Kinds that are watched in the same places; empty `namespaces` means everywhere."""

    resources: tuple[Resource, ...]
    namespaces: tuple[str, ...]


NODE_SCOPE: Final = Scope((NODES,), ())


def scopes(settings: Settings) -> tuple[Scope, Scope]:
    """What is watched where the services are, and what in the release's namespace alone.

    kopf watches each of its kinds in each of its namespaces, so one kopf over both would ask for more rights than the
    operator needs: to read pods in a release's namespace that serves none, or Leases in every namespace.
    """
    services = tuple(resource for resource in WATCHED if not resource.release_only)
    release = tuple(resource for resource in WATCHED if resource.release_only)
    return Scope(services, settings.watch_namespaces), Scope(release, (settings.namespace,))


def registry(scope: Scope, cluster: Cluster, loop: Loop, freshness: Freshness) -> kopf.OperatorRegistry:
    """The handlers: one for all that wakes a visit, one for the Lease as heartbeat, one for credentials."""
    handlers = kopf.OperatorRegistry()

    async def on_object(event: kopf.RawEvent, **_: Any) -> None:
        await loop.watched(event["type"], dict(event["object"]))

    async def on_lease(event: kopf.RawEvent, **_: Any) -> None:
        freshness.seen(version_of(dict(event["object"])))

    for resource in scope.resources:
        handler = on_lease if resource is LEASES else on_object
        kopf.on.event(resource.group, resource.version, resource.plural, registry=handlers)(handler)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return session(await cluster.credentials(), loop.listed)

    return handlers


async def watch(
    scope: Scope, cluster: Cluster, settings: Settings, loop: Loop, freshness: Freshness, stop: asyncio.Event
) -> None:
    """Watch until `stop` is set. Raises what ended a watcher: then the process must end too."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    before = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry(scope, cluster, loop, freshness),
        settings=kopf_settings(settings),
        clusterwide=not scope.namespaces,
        namespaces=scope.namespaces,
        standalone=True,
        stop_flag=stop,
    )
    # kopf has taken the signals to itself; but the Lease must be given back before the watchers end.
    handle_signals(stop)
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored=before), name="kopf")
    await asyncio.wait([running, *tasks], return_when=asyncio.FIRST_COMPLETED)
    # When one of its tasks has failed, kopf waits for all others to end: if need be for ever, and watches nothing.
    await asyncio.wait([running], timeout=END_SECONDS)
    for task in (running, *tasks):
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


def handle_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
