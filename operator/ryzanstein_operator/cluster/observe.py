"""Our own picture of the cluster: fed by watches, corrected by lists. Builds `Observed`. Writes nothing.

The watch tells of a change within milliseconds, but not of what was deleted while it was broken; so the whole picture
is listed anew at the start, every few minutes, and whenever the watch shows that it has started over.
"""

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from ryzanstein_operator.api.wire import Manifest
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
REMEMBERED_GONE: Final = 8192
"""UIDs of deleted objects that are remembered. An answer is under way for seconds, and so many are not deleted then."""
Kind = tuple[str, str]
_IndexT = TypeVar("_IndexT")
_SERVICE: Final = (SERVICES.api_version, SERVICES.kind)


@dataclass(frozen=True, order=True)
class Key:
    """What one visit is about: an InferenceService, or without a namespace what concerns all of them: the gateway's
    route table, and the nodes."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name or "routes"


ROUTES_VISIT: Final = Key("", "")
NODES_VISIT: Final = Key("", "nodes")


def key_of(manifest: Manifest) -> Key:
    """Which visit an object belongs to. A child says so by its label."""
    metadata = manifest["metadata"]
    if manifest["kind"] == SERVICES.kind and manifest["apiVersion"] == SERVICES.api_version:
        return Key(metadata["namespace"], metadata["name"])
    if manifest["kind"] == ROUTES.kind:
        return ROUTES_VISIT
    if manifest["kind"] == NODES.kind:
        return NODES_VISIT
    return Key(metadata["namespace"], metadata.get("labels", {}).get(contract.LABEL_SERVICE, ""))


class Cache:
    """The last known state of every object we watch, without what no decision reads. Older versions never replace
    newer ones."""

    def __init__(self) -> None:
        self.knows_nodes = False
        """Whether nodes may be read and have been."""
        self._objects: dict[Kind, dict[Key, Manifest]] = defaultdict(dict)
        self._by_visit: dict[tuple[Kind, Key], set[Key]] = defaultdict(set)
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._by_model: dict[str, set[Key]] = defaultdict(set)

    def put(self, manifest: Manifest) -> bool:
        """Take in an object as the API server gave it. False if a newer one is known already, or that it has gone."""
        kind, place = _kind(manifest), _place(manifest)
        known = self._objects[kind].get(place)
        if known is not None and version_of(known) >= version_of(manifest):
            return False
        if manifest["metadata"].get("uid") in self._gone:
            return False  # an answer or a list that was under way when the watch told of the deletion
        if known is not None:
            self._remove(kind, place, known)
        kept = trimmed(manifest)
        self._objects[kind][place] = kept
        self._by_visit[kind, key_of(kept)].add(place)
        if kind == _SERVICE:
            self._by_model[model_name(kept)].add(place)
        return True

    def renew(self, manifest: Manifest) -> bool:
        """Take in another state of an object that is known; one that has gone meanwhile stays gone."""
        known = self._objects[_kind(manifest)].get(_place(manifest))
        return known is not None and known["metadata"]["uid"] == manifest["metadata"]["uid"] and self.put(manifest)

    def drop(self, manifest: Manifest) -> bool:
        """Forget an object; not if its place has been taken by another one since. It does not come back."""
        kind, place = _kind(manifest), _place(manifest)
        self._gone[manifest["metadata"]["uid"]] = None
        if len(self._gone) > REMEMBERED_GONE:
            self._gone.popitem(last=False)
        known = self._objects[kind].get(place)
        if known is None or known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return False
        self._remove(kind, place, known)
        return True

    def _remove(self, kind: Kind, place: Key, known: Manifest) -> None:
        del self._objects[kind][place]
        _discard(self._by_visit, (kind, key_of(known)), place)
        if kind == _SERVICE:
            _discard(self._by_model, model_name(known), place)

    def replace(self, resource: Resource, namespace: str, manifests: Iterable[Manifest], version: int) -> None:
        """Take in a whole list of `version`, of one namespace or (empty) of all.

        What is not in it and not newer than it has been deleted unseen.
        """
        kind = (resource.api_version, resource.kind)
        listed = {_place(manifest): manifest for manifest in manifests}
        for manifest in listed.values():
            self.put(manifest)
        for place, known in list(self._objects[kind].items()):
            within = place.namespace == namespace or not namespace
            if within and place not in listed and version_of(known) <= version:
                self.drop(known)

    def known(self, manifest: Manifest) -> Manifest | None:
        """What is held in the place of `manifest`, of any version."""
        return self._objects[_kind(manifest)].get(_place(manifest))

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        return self._objects[resource.api_version, resource.kind].get(Key(namespace, name))

    def all(self, resource: Resource) -> tuple[Manifest, ...]:
        return tuple(self._objects[resource.api_version, resource.kind].values())

    def claimants(self, model: str) -> tuple[Manifest, ...]:
        """The services that would answer under one model name."""
        services = self._objects[_SERVICE]
        return tuple(services[place] for place in sorted(self._by_model.get(model, ())))

    def of(self, resource: Resource, visit: Key) -> tuple[Manifest, ...]:
        """The objects of one kind that belong to a visit, by name."""
        kind = (resource.api_version, resource.kind)
        return tuple(self._objects[kind][place] for place in sorted(self._by_visit.get((kind, visit), ())))


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
        """What a visit may look at; None if the service is gone. Raises ApiError."""
        service = self._cache.get(SERVICES, visit.namespace, visit.name)
        if service is None:
            return None
        children = [child for resource in CHILDREN for child in self._cache.of(resource, visit)]
        missing = self._missing(service, {_place_of_kind(child) for child in children})
        if missing and not await self._still_there(service):
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

    async def _still_there(self, service: Manifest) -> bool:
        """Asked before anything is made: the watch may tell of a service's end after that of its children."""
        metadata = service["metadata"]
        live = await self._read(SERVICES, metadata["namespace"], metadata["name"])
        if live is not None and live["metadata"].get("uid") == metadata.get("uid"):
            return True
        self._cache.drop(service)
        if live is not None:
            self._cache.put(live)  # the watch wakes its visit
        return False

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


def _discard(index: dict[_IndexT, set[Key]], where: _IndexT, place: Key) -> None:
    """Take `place` out; an entry that holds nothing goes too, or names of the past would add up."""
    index[where].discard(place)
    if not index[where]:
        del index[where]


def _kind(manifest: Manifest) -> Kind:
    return (manifest["apiVersion"], manifest["kind"])


def _place(manifest: Manifest) -> Key:
    return Key(manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])


def _place_of_kind(manifest: Manifest) -> tuple[Kind, str]:
    return (_kind(manifest), manifest["metadata"]["name"])
