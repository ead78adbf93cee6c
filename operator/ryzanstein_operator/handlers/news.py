"""An event of the watch into the cache, and which visits it wakes. Starts none itself."""

from collections.abc import Iterator
from enum import Enum, auto

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import NODES_VISIT, ROUTES_VISIT, Cache, Key, key_of
from ryzanstein_operator.cluster.heartbeat import version_of
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.decide.claims import model_name


class Haste(Enum):
    """AT_ONCE: somebody asks for something. PACED: one of the many steps of what goes on by itself, such as a pod's
    start: it is enough to look now and then."""

    AT_ONCE = auto()
    PACED = auto()


Wake = tuple[Key, Haste]


def take_in(cache: Cache, kind: str | None, manifest: Manifest) -> list[Wake]:
    """`kind` is the watch's ADDED, MODIFIED or DELETED, or None for an item of a first list."""
    known = cache.known(manifest)
    changed = cache.drop(manifest) if kind == "DELETED" else cache.put(manifest)
    # A version that a write of ours has overtaken may tell of another's change that no visit has seen.
    overtaken = known is not None and version_of(manifest) < version_of(known)
    return list(_wakes(cache, kind, manifest, known)) if changed or overtaken or kind is None else []


def _wakes(cache: Cache, kind: str | None, manifest: Manifest, before: Manifest | None) -> Iterator[Wake]:
    key = key_of(manifest)
    if manifest["kind"] == SERVICES.kind and _other_spec(kind, manifest, before):
        yield key, Haste.AT_ONCE
        yield ROUTES_VISIT, Haste.PACED
        # Two services may claim one model name; which of them has it may be another now.
        for name in {model_name(service) for service in (manifest, before) if service is not None}:
            yield from ((key_of(claimant), Haste.AT_ONCE) for claimant in cache.claimants(name))
    elif key == NODES_VISIT:
        yield key, Haste.AT_ONCE
    elif key.name or key == ROUTES_VISIT:
        yield key, Haste.PACED


def _other_spec(kind: str | None, manifest: Manifest, before: Manifest | None) -> bool:
    """Has a service come, gone, or been given another spec? Its own status patches are not such news."""
    if kind == "DELETED" or before is None:
        return True
    old, new = before["metadata"], manifest["metadata"]
    return any(old.get(name) != new.get(name) for name in ("uid", "generation", "deletionTimestamp"))
