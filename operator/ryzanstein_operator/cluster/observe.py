"""Our own picture of the cluster: fed by watches, corrected by lists. Builds `Observed`. Writes nothing.

The watch tells of a change within milliseconds, but not of what was deleted while it was broken; so the whole picture
is listed anew at the start, every few minutes, and whenever the watch shows that it has started over.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import Cache, Key, Kind, kind_of
from ryzanstein_operator.cluster.client import ApiError, Cluster
from ryzanstein_operator.cluster.heartbeat import version_of
from ryzanstein_operator.cluster.resources import (
    CACHED,
    CHILDREN,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    ROUTES,
    SERVICES,
    Resource,
    resource_of,
)
from ryzanstein_operator.cluster.trim import trimmed
from ryzanstein_operator.decide.claims import model_name
from ryzanstein_operator.decide.groups import pods_a_replica
from ryzanstein_operator.decide.observed import Demand, Observed, Ref
from ryzanstein_operator.desired import names
from ryzanstein_operator.settings import Settings
from ryzanstein_worker import contract

logger = logging.getLogger(__name__)

LIST_CHUNK: Final = 250
"""Objects a page. A page is held whole, with all that is not kept of it."""


class Observer:
    """Reads the cluster into the cache, and the cache into `Observed`."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        settings: Settings,
        demand: Callable[[Key], Demand | None] = lambda _: None,
    ) -> None:
        self._cluster, self._cache, self._settings, self._demand = cluster, cache, settings, demand

    async def refresh(self) -> None:
        """List everything anew. Raises ApiError, its sentence naming the kind that could not be listed."""
        for resource in CACHED:
            for namespace in self._namespaces(resource):
                await self._list(resource, namespace)
        if self._settings.node_health:
            await self._list_nodes()

    async def _list_nodes(self) -> None:
        """Without the right to read nodes all else works: their health is taken from what gateways see alone."""
        try:
            await self._list(NODES, "")
        except ApiError as error:
            if error.status != 403:
                raise
            logger.warning("Nodes may not be read; set nodeHealth.enabled in the chart", extra={"error": str(error)})
            return
        self._cache.knows_nodes = True

    async def observe(self, visit: Key, refused: Mapping[Ref, str]) -> Observed | None:
        """What a visit may look at; None if the service is gone or another than known: the watch tells of it, and that
        is the next visit. Raises ApiError."""
        service = self._cache.get(SERVICES, visit.namespace, visit.name)
        if service is None:
            return None
        children = [child for resource in CHILDREN for child in self._cache.of(resource, visit)]
        missing = self._missing(service, {_place_of_kind(child) for child in children})
        if missing and not await self._is_latest(service):
            return None
        return Observed(
            service=service,
            children=(*children, *await self._strangers(missing)),
            pods=self._cache.of(PODS, visit),
            endpoint_slices=self._cache.of(ENDPOINT_SLICES, visit),
            services=self._cache.claimants(model_name(service)),
            demand=self._demand(visit),
            refused=refused,
        )

    def services(self) -> tuple[Manifest, ...]:
        return self._cache.all(SERVICES)

    def routes(self) -> Manifest | None:
        return self._cache.get(ROUTES, self._settings.namespace, contract.ROUTES_CONFIG_MAP)

    async def _is_latest(self, service: Manifest) -> bool:
        """Asked before anything is made: the watch may tell of a service's end after that of its children, and a list
        may be of the past.

        The cache is left as it is: only what the watch finds changed there wakes those whom it concerns as well.
        """
        metadata = service["metadata"]
        live = await self._read(SERVICES, metadata["namespace"], metadata["name"])
        return live is not None and all(live["metadata"].get(key) == metadata.get(key) for key in ("uid", "generation"))

    @staticmethod
    def _missing(service: Manifest, known: set[tuple[Kind, str]]) -> list[Ref]:
        """Names we would take that no object with our label bears.

        StatefulSets of groups are not looked for: no other could be taken over, for the API server lets nobody change
        their selector.
        """
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        wanted = names.fixed_children(name, pods_a_replica(service))
        return [
            Ref(version, kind, namespace, own) for version, kind, own in wanted if ((version, kind), own) not in known
        ]

    async def _strangers(self, missing: Iterable[Ref]) -> list[Manifest]:
        """Objects without our label that bear a name we would take: read one by one, only where ours is missing."""
        # Together, because a new service waits for all of them.
        reads = [self._read(resource_of(ref), ref.namespace, ref.name) for ref in missing]
        found = await asyncio.gather(*reads)
        return [manifest for manifest in found if manifest is not None]

    async def _read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        try:
            manifest = await self._cluster.call("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return manifest

    async def _list(self, resource: Resource, namespace: str) -> None:
        query = {"limit": str(LIST_CHUNK)} | selectors(resource)
        head = {"apiVersion": resource.api_version, "kind": resource.kind}  # a list leaves these to its own head
        items: list[Manifest] = []
        while True:
            page = await self._cluster.call("GET", resource.path(namespace), query=query)
            items += (trimmed(item | head) for item in page["items"])
            if not (token := page["metadata"].get("continue")):
                break
            query = query | {"continue": token}
        self._cache.replace(resource, namespace, items, version_of(page))

    def _namespaces(self, resource: Resource) -> tuple[str, ...]:
        if resource.release_only:
            return (self._settings.namespace,)
        return self._settings.watch_namespaces or ("",)


def selectors(resource: Resource) -> dict[str, str]:
    """The query that keeps a list or a watch of `resource` to what is ours."""
    if resource is ROUTES:
        return {"fieldSelector": f"metadata.name={contract.ROUTES_CONFIG_MAP}"}
    return {"labelSelector": contract.LABEL_SERVICE} if resource.labelled else {}


def _place_of_kind(manifest: Manifest) -> tuple[Kind, str]:
    return (kind_of(manifest), manifest["metadata"]["name"])
