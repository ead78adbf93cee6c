"""An end state that two runs can be compared by: what a run draws by chance is named or left out, the rest is flat.

What still differs between two fault-free runs is masked, and the mask is printed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from faultcases.recorder import Ident, Manifest

Flat = dict[str, str]
_LEFT_OUT = {
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "generateName",
    "lastTransitionTime",
    "lastUpdateTime",
    "lastProbeTime",
    "startTime",
    "startedAt",
    "finishedAt",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "nodeName",
    "ryzanstein.dev/applied",  # a hash over UIDs, among others
    "lastFailure",  # tells of the fault, which is its purpose
}
_CHANCE = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}(-[bcdfghjklmnpqrstvwxz2456789]{5})?\b|\b[0-9a-f]{6,64}\b")
_NOT_OURS = {("ConfigMap", "kube-root-ca.crt")}


def flatten(objects: Mapping[Ident, Manifest], namespace: str) -> Flat:
    """Every leaf of every object by its path."""
    named: dict[str, list[Any]] = {}
    for (kind, name), manifest in objects.items():
        if (kind, name) not in _NOT_OURS:
            named.setdefault(f"{kind} {_word(name, namespace)}", []).append(_plain(manifest, namespace))
    flat: Flat = {}
    for title, several in named.items():
        if title.startswith("NetworkPolicy"):  # to say the same again counts there: an empty list is not stored as one
            for one in several:
                one["metadata"].pop("generation")
        ordered = sorted(several, key=lambda one: json.dumps(one, sort_keys=True))
        for index, one in enumerate(ordered):
            flat |= dict(_leaves(one, title if len(ordered) == 1 else f"{title}#{index + 1}"))
    return flat


def counted(kind: str, name: str, namespace: str) -> str:
    """The name under which creations and deletions of an object are counted."""
    return f"{kind} {_word(name, namespace)}"


def difference(found: Flat, wanted: Flat, mask: frozenset[str]) -> list[str]:
    """One line for each leaf that is not as wanted."""
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        if path not in mask and found.get(path) != wanted.get(path):
            lines.append(f"{path}: {found.get(path, 'missing')} instead of {wanted.get(path, 'nothing')}")
    return lines


def _word(text: str, namespace: str) -> str:
    return _CHANCE.sub("-*", text.replace(namespace, "NAMESPACE"))


def _plain(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {
            _word(key, namespace): len(inner)
            if key == "nodes" and isinstance(inner, list)
            else _plain(inner, namespace)
            for key, inner in value.items()
            if key not in _LEFT_OUT
        }
    if isinstance(value, list):
        plain = [_plain(inner, namespace) for inner in value]
        by_type = all(isinstance(inner, dict) and "type" in inner for inner in plain)
        return {inner["type"]: inner for inner in plain} if by_type and plain else plain
    return _word(value, namespace) if isinstance(value, str) else value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, json.dumps(value)
