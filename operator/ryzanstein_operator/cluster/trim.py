"""What of an object is kept: as much as decisions read. Thousands of objects are held in memory. Makes no call."""

from sys import intern
from typing import Any, Final

from ryzanstein_operator.api.wire import Manifest

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_OF_POD_SPEC: Final = ("nodeName", "containers", "initContainers", "volumes")
_OF_CONTAINER: Final = ("name", "image", "resources")
_OF_VOLUME: Final = ("persistentVolumeClaim", "secret")
_SHARED_LENGTH: Final = 64
"""Longer strings are messages, hardly ever the same twice."""


def trimmed(manifest: Manifest) -> Manifest:
    """The manifest without what the API server keeps for others: who set which field, and what kubectl applied last.

    Of a pod's spec also only the node, the containers' names, images and resources, and the claims and secrets that it
    waits for: all else is as its controller's template has it, and there are several pods a service. Of a node what
    tells whether it is well and where it is: a whole one tells of fifty images.
    """
    kept = {**manifest, "metadata": _metadata(manifest["metadata"])}
    if manifest["kind"] == "Pod":
        kept["spec"] = _pod_spec(manifest.get("spec", {}))
    if manifest["kind"] == "Node":
        kept |= _node(manifest)
    shared: Manifest = _shared(kept)
    return shared


def _metadata(metadata: Manifest) -> Manifest:
    rest = {key: value for key, value in metadata.items() if key != "managedFields"}
    if _LAST_APPLIED in (metadata.get("annotations") or {}):
        rest["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _LAST_APPLIED}
    return rest


def _pod_spec(spec: Manifest) -> Manifest:
    kept: Manifest = {key: spec[key] for key in _OF_POD_SPEC if key in spec}
    for containers in ("containers", "initContainers"):
        if containers in kept:
            kept[containers] = [{key: one[key] for key in _OF_CONTAINER if key in one} for one in kept[containers]]
    if "volumes" in kept:
        kept["volumes"] = [one for one in kept["volumes"] if any(key in one for key in _OF_VOLUME)]
    return kept


def _node(node: Manifest) -> Manifest:
    metadata, status = node["metadata"], node.get("status", {})
    return {
        "metadata": {name: metadata[name] for name in ("name", "uid", "resourceVersion")},
        "spec": {"taints": node.get("spec", {}).get("taints") or []},
        "status": {name: status.get(name) or {} for name in ("conditions", "addresses", "daemonEndpoints")},
    }


def _shared(value: Any) -> Any:
    """A copy in which equal strings are one: keys, kinds, labels and reasons are the same in thousands of objects."""
    # By exact type, as JSON gives it, and not by match: this is run for each value of each event.
    kind = type(value)
    if kind is str:
        return intern(value) if len(value) <= _SHARED_LENGTH else value
    if kind is dict:
        return {intern(key): _shared(item) for key, item in value.items()}
    if kind is list:
        return [_shared(item) for item in value]
    return value
