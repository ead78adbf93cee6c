"""The head of every manifest: who it belongs to. Pure; knows labels and ownership, no kind in particular."""

import hashlib
import json
from collections.abc import Mapping

from ryzanstein_operator.api.inference_service import KIND, InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_worker.contract import API_GROUP, API_VERSION


def manifest(
    api_version: str,
    kind: str,
    service: InferenceService,
    body: Manifest,
    *,
    name: str = "",
    labels: Mapping[str, str] | None = None,
) -> Manifest:
    """A child: its head, then `body`. Without a name it is the one child of its kind; `labels` come on top."""
    metadata: Manifest = {
        "name": name or names.child_name(kind, service.metadata.name),
        "namespace": service.metadata.namespace,
        "labels": names.labels(service.metadata.name) | dict(labels or {}),
    }
    if service.metadata.uid:  # none yet where a file is planned without a cluster
        metadata["ownerReferences"] = [owner_reference(service)]
    whole = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
    return seal(whole)


def seal(whole: Manifest) -> Manifest:
    """The manifest with a hash of itself as an annotation.

    A field that is no longer wanted shows in no comparison with the live object; the hash it was applied under does.
    """
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {**whole, "metadata": {**whole["metadata"], "annotations": {names.ANNOTATION_APPLIED: digest}}}


def owner_reference(service: InferenceService) -> Manifest:
    """Makes the garbage collector delete what belongs to a service that is gone."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": service.metadata.name,
        "uid": service.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,  # so that a foreground deletion waits for the pods
    }
