"""kubectl, with deadlines: one view on a test's namespace, one on the release that all tests share."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stories import Manifest, conditions, is_true, until

KUBECTL_SECONDS = 300
AWAY_SECONDS = 60.0
AWAY = ("connection refused", "TLS handshake timeout", "i/o timeout", "etcdserver:", "http2: client connection lost")
"""What kubectl says of an API server that is away for a moment, as one on a starved machine may be."""
OURS = "ryzanstein.dev/inference-service"
READ_METRICS = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8001/metrics', timeout=10).read().decode())"
)

SIGNAL_IN_POD = """
import os, pathlib
for pid in sorted(int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()):
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
    if pid not in (1, os.getpid()) and any(PATTERN in word for word in words[1:]):
        os.kill(pid, NUMBER)
        print("signalled", pid)
        break
"""


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
    nodes_are_containers: bool
    docker_host: str

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
        """What kubectl printed. Raises KubectlError with its words when it fails; a look at objects, which changes
        nothing, waits for an API server that is away."""
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return self.once(*arguments, stdin=stdin)
            except KubectlError as error:
                away = arguments[0] == "get" and any(words in str(error) for words in AWAY)
                if not away or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def once(self, *arguments: str, stdin: str | None = None) -> str:
        """The same, but for the waiting."""
        run = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False
        )
        if run.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def command(self, *arguments: str) -> list[str]:
        """What to run for kubectl with these arguments, in this cluster and namespace."""
        program = shutil.which("kubectl") or str(_cache() / "bin/kubectl")
        place = [f"--kubeconfig={self.connection.kubeconfig}", f"--context={self.connection.context}"]
        return [program, *place, f"--namespace={self.namespace}", *arguments]

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """The base URL at which `target`, such as deployment/NAME, is reached on its `port` while the block lasts."""
        command = self.command("port-forward", target, f":{port}", "--address=127.0.0.1")
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert forward.stdout is not None
            said = forward.stdout.readline()  # Forwarding from 127.0.0.1:PORT -> ...
            found = re.search(r"127\.0\.0\.1:(\d+)", said)
            assert found, f"kubectl port-forward {target} said {said!r}"
            yield f"http://127.0.0.1:{found.group(1)}"
        finally:
            forward.terminate()
            forward.wait(10)
            if forward.stdout is not None:
                forward.stdout.close()

    def apply(self, *manifests: Manifest) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def get(self, kind: str, name: str) -> Manifest:
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def signal(self, pod: str, container: str, pattern: str, number: int) -> None:
        """Send a signal to the first process of a container whose command line holds `pattern`, from within it."""
        code = f"PATTERN, NUMBER = {pattern!r}, {int(number)}{SIGNAL_IN_POD}"
        try:
            said = self.kubectl("exec", pod, "-c", container, "--", "python", "-c", code)
        except KubectlError as error:
            # With the container's main process goes what was run beside it, sometimes before it could say so.
            if number != signal.SIGKILL or not any(words in str(error) for words in ("exit code 137", "EOF")):
                raise
        else:
            assert "signalled" in said, f"no process of {pod} has {pattern!r} in its command line"

    def run_until_killed(self, pod: str, container: str, code: str) -> None:
        """Run Python in a container until the container ends, and that with it."""
        try:
            self.kubectl("exec", pod, "-c", container, "--", "python", "-c", code)
        except KubectlError as error:
            # Killed with the container, or the connection broke with it.
            if not any(words in str(error) for words in ("exit code 137", "EOF", "container not found")):
                raise
        else:
            raise AssertionError(f"{pod} outlived what was to kill it")

    def items(self, kinds: str, selector: str) -> list[Manifest]:
        return list(json.loads(self.kubectl("get", kinds, "-l", selector, "-o", "json"))["items"])


def serves(pod: Manifest) -> bool:
    """Whether a pod is ready and not on its way out. One that was just made has no conditions yet."""
    said = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
    return said.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


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

    def gateways(self) -> list[Manifest]:
        """The gateway's pods that are not on their way out."""
        return [pod for pod in self.living("gateway") if "deletionTimestamp" not in pod["metadata"]]

    def living(self, *components: str) -> list[Manifest]:
        """The pods of these, less those that have ended for good and only wait to be forgotten."""
        pods = self.items("pods", f"app.kubernetes.io/component in ({','.join(components)})")
        return [pod for pod in pods if pod["status"].get("phase") not in ("Failed", "Succeeded")]

    def wait_gateway(self, seconds: float) -> None:
        """Until every replica of the gateway is ready and none is on its way out."""
        self._wait_whole("gateway", seconds)

    def gateway_metric(self, name: str) -> float:
        """The sum of a metric's series over the gateway's pods."""
        total = 0.0
        for pod in self.gateways():
            text = self.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", READ_METRICS)
            total += sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))
        return total

    def operator_writes(self) -> int:
        """Writes to the API server, counted by the operator pods themselves."""
        total = 0
        for pod in self.living("operator"):
            if "deletionTimestamp" not in pod["metadata"]:
                metrics = self.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", READ_METRICS)
                counts = re.findall(r"^ryzanstein_operator_writes_total\{.*\} (\S+)$", metrics, re.MULTILINE)
                total += sum(int(float(count)) for count in counts)
        return total

    def wait_operator(self, seconds: float) -> None:
        """The same of the operator."""
        self._wait_whole("operator", seconds)

    def _wait_whole(self, component: str, seconds: float) -> None:
        """Looks at the pods: the Deployment's own count may be from before one was deleted."""
        selector = f"app.kubernetes.io/component={component}"

        def whole() -> bool:
            pods = self.living(component)
            wanted = self.items("deployments", selector)[0]["spec"]["replicas"]
            return len(pods) == wanted and all(map(serves, pods))

        until(seconds, f"the {component} is whole", whole)


@dataclass(frozen=True)
class Nodes:
    """The nodes as containers, for stories that kill or cut off one."""

    connection: Connection

    def docker(self, *arguments: str) -> str:
        """What docker printed. Raises AssertionError with its words when it fails."""
        host = {"DOCKER_HOST": self.connection.docker_host} if self.connection.docker_host else {}
        command = ["docker", *arguments]
        run = subprocess.run(
            command, env=os.environ | host, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False
        )
        if run.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {run.stderr.strip()}")
        return run.stdout

    def wait_ready(self, node: str, seconds: float) -> None:
        """Until Kubernetes says that the node is Ready (it says so for some 40 s of a dead one too)."""
        cluster = Kubectl(self.connection, "default")

        def ready() -> bool:
            conditions = cluster.get("node", node)["status"]["conditions"]
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

        until(seconds, f"node {node} is ready", ready)
