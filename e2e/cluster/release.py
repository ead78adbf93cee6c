"""The chart's release in the cluster: installed or upgraded when chart, values or images changed, else left alone."""

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from console import Failure, ask, run, step
from images import Image
from lab import HERE, NAMESPACE, RELEASE, ROOT, Lab, digest

CHART = ROOT / "helm/ryzanstein"
VALUES = HERE / "values.yaml"
DEPLOYMENTS = (f"{RELEASE}-operator", f"{RELEASE}-gateway", f"{RELEASE}-prometheus")
_NAMESPACE_MANIFEST = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}


@dataclass(frozen=True)
class Connection:
    """How the cluster and the gateway are reached from this machine; kept in a file for the e2e stories."""

    kubeconfig: str
    context: str
    gateway: str
    worker_image: str
    nodes_are_containers: bool
    """Whether the nodes are containers of this machine's Docker, so that a story may kill one."""
    docker_host: str
    """DOCKER_HOST of that Docker; empty for the usual one."""


def connection_file(lab: Lab) -> Path:
    return lab.state / "connection.json"


def connect(lab: Lab, connection: Connection) -> None:
    """From here on this process's kubectl and helm speak to that cluster, whatever the user's current context."""
    os.environ["KUBECONFIG"] = connection.kubeconfig
    spare = connection_file(lab).with_suffix(".new")
    spare.write_text(json.dumps(vars(connection), indent=1))
    os.replace(spare, connection_file(lab))


def ensure(lab: Lab, connection: Connection, images: Sequence[Image], prefix: str = "") -> None:
    """Helm's release, deployed and rolled out."""
    log = lab.log("release")
    with step(f"release {RELEASE} in namespace {NAMESPACE}") as current:
        log.unlink(missing_ok=True)
        settings = [f"gateway.externalUrl={connection.gateway}"]
        for image in images:
            settings += [
                f"images.{image.part}.repository={prefix}{image.repository}",
                f"images.{image.part}.tag={image.tag}",
            ]
        files = [path for path in CHART.rglob("*") if path.is_file()]
        wanted = digest([*files, VALUES], *settings)
        if _deployed() == wanted and _rolled_out(lab, timeout=5):
            current.note = "reused"
            return
        _forget_interrupted(lab)
        manifest = lab.state / "namespace.json"
        manifest.write_text(json.dumps(_NAMESPACE_MANIFEST))
        run(["kubectl", "apply", "--server-side", "-f", manifest], log=log)
        values = [word for setting in settings for word in ("--set-string", setting)]
        command: list[str | Path] = [
            "helm",
            "upgrade",
            "--install",
            RELEASE,
            CHART,
            "--namespace",
            NAMESPACE,
            "--values",
            VALUES,
        ]
        run([*command, *values, "--description", wanted], log=log, timeout=120)
        if not _rolled_out(lab, timeout=240):
            _describe(lab)
            raise Failure("the operator, the gateway or Prometheus did not become available within 240 s", log)


def _deployed() -> str | None:
    """The digest that the deployed revision was made from; None when there is none or its upgrade did not end."""
    status = ask(["helm", "status", RELEASE, "--namespace", NAMESPACE, "-o", "json"])
    info = json.loads(status)["info"] if status else {}
    return info.get("description") if info.get("status") == "deployed" else None


def _forget_interrupted(lab: Lab) -> None:
    """Removes the mark of a helm that was interrupted, which would make every later one refuse."""
    secrets = "owner=helm,status in (pending-install,pending-upgrade,pending-rollback)"
    ask(["kubectl", "delete", "secret", "--namespace", NAMESPACE, "--selector", secrets])


def _rolled_out(lab: Lab, timeout: int) -> bool:
    command = ["kubectl", "rollout", "status", "--namespace", NAMESPACE, f"--timeout={timeout}s"]
    return all(ask([*command, f"deployment/{name}"], timeout=timeout + 30) is not None for name in DEPLOYMENTS)


def _describe(lab: Lab) -> None:
    """Why the release's pods do not run, at the end of the release's log."""
    base = ["kubectl", "--namespace", NAMESPACE]
    with lab.log("release").open("a") as log:
        log.write(ask([*base, "get", "pods", "-o", "wide"]) or "")
        log.write(ask([*base, "get", "events", "--sort-by=.lastTimestamp"]) or "")
        for name in DEPLOYMENTS:
            log.write(f"--- logs of {name}\n")
            log.write(ask([*base, "logs", f"deployment/{name}", "--tail=15", "--all-pods=true"]) or "")


def default_key() -> str:
    """The API key that the chart made on its first install."""
    path = "jsonpath={.data.key}"
    command = ["kubectl", "get", "secret", f"{RELEASE}-default-key", "--namespace", NAMESPACE, "-o", path]
    encoded = ask(command)
    if not encoded:
        raise Failure(f"there is no Secret {RELEASE}-default-key in namespace {NAMESPACE}")
    return base64.b64decode(encoded).decode()
