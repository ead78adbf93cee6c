"""What is kept of an object is all that a decision reads, and far less than the API server sends."""

import copy
import json
from dataclasses import replace

import pytest

from operator_builders import NOW, SETTINGS, ready_pod, service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.trim import trimmed
from ryzanstein_operator.decide.reconcile import reconcile
from status_situations import SITUATIONS


def as_sent(manifest: Manifest) -> Manifest:
    """With what the API server adds to every object."""
    sent = copy.deepcopy(manifest)
    fields: Manifest = {f"f:{name}": {} for name in manifest}
    sent["metadata"]["managedFields"] = [{"manager": "somebody", "operation": "Update", "fieldsV1": fields}]
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(manifest)}
    sent["metadata"]["annotations"] = annotations | (manifest["metadata"].get("annotations") or {})
    return sent


@pytest.mark.parametrize("title", SITUATIONS)
def test_every_decision_is_the_same_on_what_is_kept(title: str) -> None:
    observed = SITUATIONS[title][0]
    kept = replace(
        observed,
        service=trimmed(as_sent(observed.service)),
        children=tuple(trimmed(as_sent(child)) for child in observed.children),
        pods=tuple(trimmed(as_sent({"apiVersion": "v1", "kind": "Pod", **pod})) for pod in observed.pods),
        endpoint_slices=tuple(trimmed(as_sent(one)) for one in observed.endpoint_slices),
        services=tuple(trimmed(as_sent(one)) for one in observed.services),
    )
    assert reconcile(kept, SETTINGS, NOW) == reconcile(observed, SETTINGS, NOW)


def test_a_pod_is_kept_without_its_template_and_without_whose_field_is_whose() -> None:
    sent = as_sent(ready_pod(service()))
    kept = trimmed(sent)
    assert set(kept["spec"]) == {"nodeName", "containers", "volumes"}
    assert "managedFields" not in kept["metadata"]
    assert not kept["metadata"]["annotations"]
    assert len(json.dumps(kept)) < len(json.dumps(sent)) / 3
    assert "managedFields" in sent["metadata"], "what came is left as it is"


def test_words_that_are_the_same_everywhere_are_held_once() -> None:
    one, other = (trimmed(json.loads(json.dumps(ready_pod(service(), name)))) for name in ("chat-a", "chat-b"))
    labels = [list(pod["metadata"]["labels"].items()) for pod in (one, other)]
    assert all(mine is yours for mine, yours in zip(*(sum(pairs, ()) for pairs in labels), strict=True))
