"""The last known state of every object we watch, found by place, by visit and by model name. Makes no call."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.heartbeat import version_of
from ryzanstein_operator.cluster.resources import NODES, ROUTES, SERVICES, Resource
from ryzanstein_operator.cluster.trim import trimmed
from ryzanstein_operator.decide.claims import model_name
from ryzanstein_worker import contract

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
        kind, place = kind_of(manifest), _place(manifest)
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
        known = self._objects[kind_of(manifest)].get(_place(manifest))
        return known is not None and known["metadata"]["uid"] == manifest["metadata"]["uid"] and self.put(manifest)

    def drop(self, manifest: Manifest) -> bool:
        """Forget an object; not if its place has been taken by another one since. It does not come back."""
        kind, place = kind_of(manifest), _place(manifest)
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
        return self._objects[kind_of(manifest)].get(_place(manifest))

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


def _discard(index: dict[_IndexT, set[Key]], where: _IndexT, place: Key) -> None:
    """Take `place` out; an entry that holds nothing goes too, or names of the past would add up."""
    index[where].discard(place)
    if not index[where]:
        del index[where]


def kind_of(manifest: Manifest) -> Kind:
    return (manifest["apiVersion"], manifest["kind"])


def _place(manifest: Manifest) -> Key:
    return Key(manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
