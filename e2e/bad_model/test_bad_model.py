"""A model that cannot run says why in the status, in a sentence, and the operator stays quiet about it."""

import json
import time
from typing import Any

import pytest

from cluster_view import ClusterView, Release
from stories import conditions, service, until

CLAIM: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "shared",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}
# Copies of the demo model, each broken in one way, written into the claim by a pod of the worker's image.
BREAK = """
import json, pathlib, shutil, struct, ryzanstein_worker
demo = pathlib.Path(ryzanstein_worker.__file__).parent / 'demo_model'
for name in ('header', 'shape', 'missing'):
    shutil.copytree(demo, f'/models/{name}', dirs_exist_ok=True)
pathlib.Path('/models/header/model.safetensors').write_bytes(struct.pack('<Q', 1 << 60) + b'{}')
config = json.loads((demo / 'config.json').read_text())
pathlib.Path('/models/shape/config.json').write_text(json.dumps({**config, 'intermediate_size': 512}))
pathlib.Path('/models/missing/model.safetensors').unlink()
"""
QUIET_SECONDS = 20.0
CASES = [
    ("file:///no/such/model", 1, "Ready", "/no/such/model"),
    ("pvc://models/header", 1, "Ready", "model.safetensors"),
    ("pvc://models/shape", 1, "Ready", "shape"),
    ("pvc://models/missing", 1, "Ready", "safetensors"),
    ("demo://", 3, "Ready", "3"),
    ("pvc://absent/model", 1, "ModelCached", "absent"),
]


def _writer(image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "writer",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", BREAK],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                }
            ],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        },
    }


@pytest.fixture
def claim(cluster: ClusterView, release: Release) -> None:
    cluster.apply(CLAIM, _writer(release.connection.worker_image))
    until(300, "the models are written", lambda: cluster.get("pod", "writer")["status"].get("phase") == "Succeeded")


@pytest.mark.usefixtures("claim")
def test_the_status_names_what_is_wrong_with_the_model(cluster: ClusterView, release: Release) -> None:
    for number, (uri, tensor, _, _) in enumerate(CASES):
        cluster.apply(service(f"bad-{number}", model={"uri": uri}, parallelism={"tensor": tensor}))
    cluster.apply(service("bad-hub", model={"uri": "hf://no-such/model"}))
    for number, (uri, _, kind, words) in enumerate(CASES):
        name = f"bad-{number}"

        def told(name: str = name, kind: str = kind, words: str = words) -> bool:
            condition = conditions(cluster.service(name)).get(kind, {})
            return condition.get("status") == "False" and words in condition.get("message", "")

        until(300, f"{name} ({uri}) says {words!r} in {kind}", told)

    def download_failed() -> bool:
        return conditions(cluster.service("bad-hub")).get("ModelCached", {}).get("status") == "False"

    until(400, "the failed download is told", download_failed)
    _stays_quiet(cluster, release)

    # Another spec mends it: what was wrong is gone from the status.
    cluster.kubectl("patch", "rzi/bad-4", "--type=merge", "-p", json.dumps({"spec": {"parallelism": {"tensor": 2}}}))
    cluster.wait_ready("bad-4", 240)


def _stays_quiet(cluster: ClusterView, release: Release) -> None:
    """The kubelet's back-off may change the status now and then; an operator that spins writes without end."""
    before, began = release.operator_writes(), time.monotonic()
    generations = {
        item["metadata"]["name"]: item["metadata"]["generation"] for item in cluster.items("deployments", "")
    }
    time.sleep(QUIET_SECONDS)
    writes, seconds = release.operator_writes() - before, time.monotonic() - began
    assert writes < 2 * seconds, f"{writes} writes in {seconds:.0f} s"
    assert generations == {i["metadata"]["name"]: i["metadata"]["generation"] for i in cluster.items("deployments", "")}
