"""What the e2e stories speak with: kubectl tied to one cluster, the gateway as a client sees it, waits with a deadline.

Knows kubectl and HTTP; nothing of how the cluster came up, and nothing of the project's own Python.
"""

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

RELEASE = "ryzanstein"
RELEASE_NAMESPACE = "ryzanstein"
OPERATOR = f"deployment/{RELEASE}-operator"
GATEWAY = f"deployment/{RELEASE}-gateway"
Manifest = dict[str, Any]
T = TypeVar("T")


class KubectlError(Exception):
    """kubectl ended with an error; ``str()`` is what it printed."""


@dataclass(frozen=True)
class Connection:
    """Where `python3 e2e/cluster up` says the cluster and the gateway are."""

    kubeconfig: str
    context: str
    gateway: str
    worker_image: str

    @classmethod
    def read(cls) -> "Connection":
        """Raises LookupError when no cluster is up."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("RYZANSTEIN_CACHE") or home / "ryzanstein")
        file = cache / "state" / os.environ.get("RYZANSTEIN_CLUSTER", "ryz") / "connection.json"
        if not file.exists():
            raise LookupError("no cluster is up; `make e2e` brings one up (python3 e2e/cluster up)")
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True)
class Kubectl:
    """kubectl, tied to one cluster and one namespace, whatever the user's current context is."""

    connection: Connection
    namespace: str

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """kubectl's output. Raises KubectlError with its words."""
        place = [f"--kubeconfig={self.connection.kubeconfig}", f"--context={self.connection.context}"]
        done = subprocess.run(
            [_program(), *place, f"--namespace={self.namespace}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def within(self, namespace: str) -> "Kubectl":
        """The same cluster, another namespace."""
        return Kubectl(self.connection, namespace)

    def get(self, kind: str, name: str) -> Manifest:
        """One object. Raises KubectlError when it is not there."""
        found: Manifest = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        """All objects of a kind (or several, comma between) that the selector takes."""
        chosen = ["--selector", selector] if selector else []
        items: list[Manifest] = json.loads(self("get", kind, *chosen, "-o", "json"))["items"]
        return items

    def apply(self, manifest: Manifest | Path) -> None:
        """Server-side apply of an object or a file, as the field manager "e2e"."""
        text = manifest.read_text() if isinstance(manifest, Path) else json.dumps(manifest)
        self("apply", "--server-side", "--field-manager=e2e", "-f", "-", stdin=text)

    def conditions(self, name: str) -> dict[str, Manifest]:
        """An InferenceService's conditions by type; empty while it has none."""
        status = self.get("inferenceservice", name).get("status", {})
        return {condition["type"]: condition for condition in status.get("conditions", [])}

    def is_ready(self, name: str) -> bool:
        """Whether the InferenceService is Ready and says so of its present spec."""
        service = self.get("inferenceservice", name)
        ready = [c for c in service.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
        generation = service["metadata"]["generation"]
        return any(c["status"] == "True" and c.get("observedGeneration") == generation for c in ready)


def _program() -> str:
    """The cluster's own kubectl where it was built, else the one on PATH."""
    folder = os.environ.get("RYZANSTEIN_KUBE_BIN")
    own = Path(folder) / "kubectl" if folder else None
    return str(own) if own and own.exists() else "kubectl"


@dataclass(frozen=True)
class Gateway:
    """The gateway as a client sees it. `url` has no /v1; an OpenAI client wants ``base_url=f"{url}/v1"``."""

    url: str
    key: str

    def post(self, path: str, body: Manifest, *, timeout: float = 60) -> tuple[int, Manifest]:
        """Status and body of a call; an error's body too. Raises OSError when nothing answers."""
        return self._send(urllib.request.Request(self.url + path, json.dumps(body).encode()), timeout)

    def get(self, path: str, *, timeout: float = 30) -> tuple[int, Manifest]:
        """Status and body of a call; an error's body too. Raises OSError when nothing answers."""
        return self._send(urllib.request.Request(self.url + path), timeout)

    def stream(self, body: Manifest, *, path: str = "/v1/completions", timeout: float = 120) -> Iterator[Manifest]:
        """The events of a streamed call, until its [DONE]. A stream that ends without one raises EOFError."""
        request = urllib.request.Request(self.url + path, json.dumps({**body, "stream": True}).encode())
        self._sign(request)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            for line in answer:
                data = line.decode().strip().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if data:
                    yield json.loads(data)
        raise EOFError("the stream ended without [DONE]")

    def models(self) -> set[str]:
        """The names that /v1/models lists."""
        status, body = self.get("/v1/models")
        return {model["id"] for model in body["data"]} if status == 200 else set()

    def _sign(self, request: urllib.request.Request) -> None:
        request.add_header("Authorization", f"Bearer {self.key}")
        request.add_header("Content-Type", "application/json")

    def _send(self, request: urllib.request.Request, timeout: float) -> tuple[int, Manifest]:
        self._sign(request)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"{}")


def default_key(kubectl: Kubectl) -> str:
    """The API key that the chart made."""
    secret = kubectl.within(RELEASE_NAMESPACE).get("secret", f"{RELEASE}-default-key")
    return base64.b64decode(secret["data"]["key"]).decode()


def wait_for(what: str, attempt: Callable[[], T | None], *, seconds: float = 180, every: float = 0.3) -> T:
    """The first true answer of `attempt`; an error of kubectl or of the network means "not yet".

    Fails the test with `what` and the last answer when the deadline passes.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = attempt()
        except (KubectlError, OSError) as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        time.sleep(every)
    pytest.fail(f"not within {seconds:.0f} s: {what} (last answer: {last!r})")
