"""Does a live object already say what we want it to? Pure; knows how the API server defaults, merges and normalises.

A subset comparison: what we name must be there, what others or the server add is theirs. A field that we no longer name
shows in the hash that `desired.metadata.seal` puts on each manifest.
"""

from collections.abc import Iterator
from typing import Any

from ryzanstein_operator.api.quantity import is_quantity, parse_quantity

# Lists that Kubernetes merges by a key (list-type "map"); every other list is replaced whole, so it must be equal.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "name",  # a NetworkPolicy's ports have no name and are replaced whole
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
}
# Maps that Kubernetes replaces whole (map-type "atomic"): a key beside ours selects other pods, or none.
_ATOMIC_MAPS = ("selector", "podSelector", "namespaceSelector", "labelSelector", "matchLabels", "nodeSelector")
_QUANTITIES = ("requests", "limits", "sizeLimit")
_EMPTY: tuple[Any, ...] = (None, "", [], {})


def covers(live: Any, desired: Any) -> bool:
    """Whether applying `desired` onto `live` would change nothing."""
    return next(differences(live, desired), None) is None


def differences(live: Any, desired: Any, path: str = "") -> Iterator[str]:
    """The paths at which `live` does not say what `desired` says, depth first."""
    field = path.rpartition(".")[2]
    if live is None and desired in _EMPTY:
        return  # the server stores no empty values
    if isinstance(desired, dict) and isinstance(live, dict):
        if field in _ATOMIC_MAPS and any(live[key] not in _EMPTY for key in live.keys() - desired.keys()):
            yield path
            return
        amounts = field in _QUANTITIES
        for key, value in desired.items():
            if not (amounts and _same_quantity(live.get(key), value)):
                yield from differences(live.get(key), value, f"{path}.{key}" if path else str(key))
    elif isinstance(desired, list) and isinstance(live, list):
        yield from _list_differences(live, desired, path, _MERGE_KEYS.get(field))
    elif not _equal(live, desired) and not (field in _QUANTITIES and _same_quantity(live, desired)):
        yield path


def _list_differences(live: list[Any], desired: list[Any], path: str, key: str | None) -> Iterator[str]:
    if key and desired and all(isinstance(item, dict) and key in item for item in [*desired, *live]):
        held = {item[key]: item for item in live}
        for item in desired:
            yield from differences(held.get(item[key]), item, f"{path}[{item[key]}]")
    elif len(live) != len(desired):
        yield path
    else:
        for index, (one, other) in enumerate(zip(live, desired, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")


def _equal(live: Any, desired: Any) -> bool:
    # True == 1 in Python, and not in JSON.
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _same_quantity(live: Any, desired: Any) -> bool:
    amounts = [value for value in (live, desired) if isinstance(value, int | str) and is_quantity(value)]
    return len(amounts) == 2 and parse_quantity(amounts[0]) == parse_quantity(amounts[1])
