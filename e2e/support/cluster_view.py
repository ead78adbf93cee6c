"""kubectl, with deadlines: one view on a test's namespace, one on the release that all tests share."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stories import Manifest, conditions, is_true, until

KUBECTL_SECONDS = 120
OURS = "ryzanstein.dev/inference-service"


class KubectlError(AssertionError):
    """kubectl refused; its words."""


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RYZANSTEIN_CACHE") or home / "ryzanstein")


@dataclass(frozen=True)
class Connection:
    """Where `python3 e2e/cluster up` says the cluster and the gateway are."""

    kubeconfig: str
    context: str
    gateway: str
    worker_image: str

    @classmethod
    def read(cls) -> Self:
        """Raises LookupError when no cluster is up."""
        file = _cache() / "state" / os.environ.get("RYZANSTEIN_CLUSTER", "ryz") / "connection.json"
        if not file.exists():
            raise LookupError("no cluster is up; `make e2e` brings one up (python3 e2e/cluster up)")
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace of that cluster, whatever the user's current context is."""

    connection: Connection
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl printed. Raises KubectlError with its words when it fails."""
        program = shutil.which("kubectl") or str(_cache() / "bin/kubectl")
        place = [f"--kubeconfig={self.connection.kubeconfig}", f"--context={self.connection.context}"]
        command = [program, *place, f"--namespace={self.namespace}", *arguments]
        run = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False)
        if run.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def apply(self, *manifests: Manifest) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def get(self, kind: str, name: str) -> Manifest:
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def items(self, kinds: str, selector: str) -> list[Manifest]:
        return list(json.loads(self.kubectl("get", kinds, "-l", selector, "-o", "json"))["items"])


class ClusterView(Kubectl):
    """The namespace that one test has for itself."""

    def service(self, name: str) -> Manifest:
        return self.get("inferenceservice.ryzanstein.dev", name)

    def pods(self, name: str) -> list[Manifest]:
        """The service's worker pods that are not on their way out."""
        pods = self.items("pods", f"{OURS}={name}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def patch(self, name: str, patch: dict[str, Any]) -> None:
        self.kubectl("patch", f"rzi/{name}", "--type=merge", "-p", json.dumps(patch))

    def wait_ready(self, name: str, seconds: float) -> Manifest:
        """The service once it is Ready at its latest generation with all its replicas."""

        def ready() -> Manifest | None:
            manifest = self.service(name)
            whole = manifest.get("status", {}).get("readyReplicas") == manifest["spec"]["replicas"]
            return manifest if whole and is_true(manifest, "Ready") else None

        try:
            return dict(until(seconds, f"{name} is ready", ready))
        except AssertionError as error:
            said = {kind: c["message"] for kind, c in conditions(self.service(name)).items()}
            raise AssertionError(f"{error}; its conditions: {said}") from None


class Release(Kubectl):
    """The namespace of the Helm release: operator and gateway."""

    def operator_writes(self) -> int:
        """Writes to the API server, counted by the operator pods themselves."""
        read = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8001/metrics', timeout=10).read().decode())"
        )
        total = 0
        for pod in self.items("pods", "app.kubernetes.io/component=operator"):
            if "deletionTimestamp" not in pod["metadata"]:
                metrics = self.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", read)
                counts = re.findall(r"^ryzanstein_operator_writes_total\{.*\} (\S+)$", metrics, re.MULTILINE)
                total += sum(int(float(count)) for count in counts)
        return total

    def wait_operator(self, seconds: float) -> None:
        """Until every replica of the operator is ready again."""

        def whole() -> bool:
            deployment = self.items("deployments", "app.kubernetes.io/component=operator")[0]
            return bool(deployment["status"].get("readyReplicas") == deployment["spec"]["replicas"])

        until(seconds, "the operator is whole again", whole)
