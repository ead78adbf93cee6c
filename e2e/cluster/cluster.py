"""The kind cluster: made when absent, reused while it answers, made anew when its daemon has been stopped meanwhile."""

import json
import shutil
import time
from pathlib import Path

import forwarding
import node_image
from console import Failure, ask, run, say, step
from engine import Engine
from lab import GATEWAY_NODE_PORT, HERE, Lab

_ADMIN = ("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf")


def nodes(lab: Lab, role: str | None = None) -> list[str]:
    """The containers that are this cluster's nodes, running or not; `role` is "worker" or "control-plane"."""
    filters = ["--filter", f"label=io.x-k8s.kind.cluster={lab.name}"]
    if role:
        filters += ["--filter", f"label=io.x-k8s.kind.role={role}"]
    listed = ask(["docker", "ps", "-a", *filters, "--format", "{{.Names}}"])
    return sorted(listed.split()) if listed else []


def _control_plane(lab: Lab) -> str:
    return f"{lab.name}-control-plane"


def inside(lab: Lab, *kubectl: str, timeout: float = 20) -> str | None:
    """kubectl's answer from within the control plane's node: works before any port leads to the cluster."""
    return ask(["docker", "exec", _control_plane(lab), *_ADMIN, *kubectl], timeout=timeout)


def healthy(lab: Lab) -> bool:
    """Whether the API server is ready and every node is."""
    if inside(lab, "get", "--raw", "/readyz", "--request-timeout=5s") != "ok":
        return False
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
    statuses = inside(lab, "get", "nodes", "-o", f"jsonpath={path}")
    return statuses is not None and statuses.split() == ["True"] * len(nodes(lab)) and len(nodes(lab)) == 3


def ensure(lab: Lab, engine: Engine) -> None:
    """A cluster that answers: the one that is there if it does, else a new one."""
    image = node_image.ensure(lab) if engine.offline else None
    finished = lab.state / "cluster.json"
    # The container's id ties the mark to this very cluster; a half-made one has no mark.
    with step(f"kind cluster {lab.name}: a control plane and two workers") as current:
        wanted: dict[str, object] = {"image": image, "ports": [lab.api_port, lab.gateway_port]}
        present = nodes(lab)
        if present:
            made = json.loads(finished.read_text()) if finished.exists() else None
            reason = _why_not(lab, made, wanted)
            if reason is None:
                current.note = "reused"
                _connect(lab, engine)
                return
            say(f"   {reason}: it is made anew")
            delete(lab)
        try:
            _create(lab, engine, image)
            finished.write_text(json.dumps(wanted | {"id": _identity(lab)}))
        except BaseException:
            say("   removing the half-made cluster")
            delete(lab)
            raise


def _why_not(lab: Lab, made: dict[str, object] | None, wanted: dict[str, object]) -> str | None:
    """Why the cluster that is there cannot be reused; None when it can."""
    if made is None or made.get("id") != _identity(lab):
        return "the cluster that is there was not made to the end"
    if {key: made.get(key) for key in wanted} != wanted:
        return "the cluster that is there is of another kind"
    deadline = time.monotonic() + 40
    if inside(lab, "version", timeout=10) is None:
        return "the cluster that is there does not answer"
    while not healthy(lab):
        if time.monotonic() > deadline:
            return "the cluster that is there is not healthy"
        time.sleep(1)
    return None


def _identity(lab: Lab) -> str | None:
    return ask(["docker", "inspect", "-f", "{{.Id}}", _control_plane(lab)])


def _create(lab: Lab, engine: Engine, image: str | None) -> None:
    log = lab.log("kind-create")
    log.unlink(missing_ok=True)
    (lab.exchange / "volumes").mkdir(parents=True, exist_ok=True)
    (lab.exchange / "images").mkdir(exist_ok=True)
    config = lab.state / "kind.json"
    config.write_text(json.dumps(_config(lab, engine), indent=1))
    own = lab.state / "kubeconfig"
    command: list[str | Path] = ["kind", "create", "cluster", "--config", config, "--wait", "180s", "--kubeconfig", own]
    run([*command, *(["--image", image] if image else [])], log=log, timeout=600)
    _install_storage(lab)
    _connect(lab, engine)
    deadline = time.monotonic() + 120
    while not healthy(lab):
        if time.monotonic() > deadline:
            raise Failure("the cluster's nodes did not become ready within 120 s", log)
        time.sleep(0.5)


def _config(lab: Lab, engine: Engine) -> dict[str, object]:
    mounts = [{"hostPath": str(lab.exchange), "containerPath": "/exchange"}]
    gateway = {"containerPort": GATEWAY_NODE_PORT, "hostPort": lab.gateway_port, "listenAddress": "127.0.0.1"}
    config: dict[str, object] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": lab.name,
        "networking": {"apiServerAddress": "127.0.0.1", "apiServerPort": lab.api_port},
        "nodes": [
            {"role": "control-plane", "extraMounts": mounts, "extraPortMappings": [gateway]},
            {"role": "worker", "extraMounts": mounts},
            {"role": "worker", "extraMounts": mounts},
        ],
    }
    if engine.offline:
        kubelet = {"kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "failCgroupV1": False}
        # JSON is YAML: kubeadm reads the patch as either.
        config["kubeadmConfigPatches"] = [json.dumps(kubelet | {"resolvConf": "/kind/resolv.conf"})]
    return config


def _install_storage(lab: Lab) -> None:
    """Storage class `shared`, provided by a small service on the control plane's node."""
    log, node = lab.log("storage"), _control_plane(lab)
    folder = HERE / "storage"
    for file, place in (
        ("shared-storage.sh", "/usr/local/lib/shared-storage.sh"),
        ("shared-storage.service", "/etc/systemd/system/shared-storage.service"),
        ("class.yaml", "/kind/shared-class.yaml"),
    ):
        run(["docker", "cp", folder / file, f"{node}:{place}"], log=log)
    run(["docker", "exec", node, "systemctl", "enable", "--now", "shared-storage.service"], log=log)


def _connect(lab: Lab, engine: Engine) -> None:
    """Lets the user's own shell in: forwarded ports where the cluster sits in a namespace, a context in any case."""
    if engine.offline:
        forwarding.start(lab)
    run(["kind", "export", "kubeconfig", "--name", lab.name], log=lab.log("kind-create"))


def delete(lab: Lab) -> None:
    """Removes the cluster, whole or half-made, its context in the user's kubeconfig, and its volumes."""
    (lab.state / "cluster.json").unlink(missing_ok=True)
    run(["kind", "delete", "cluster", "--name", lab.name], log=lab.log("kind-delete"), timeout=120)
    shutil.rmtree(lab.exchange, ignore_errors=True)
