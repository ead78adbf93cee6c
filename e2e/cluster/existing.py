"""A cluster that the user already has (--kubeconfig FILE): nothing of it is made or removed but our release.

Its nodes must get the images from somewhere: a registry that this machine's Docker may push to and the nodes may
pull from (--registry PREFIX).
"""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from console import Failure, ask, run, step
from images import Image
from lab import NAMESPACE, RELEASE, Lab


def context(kubeconfig: Path) -> str:
    """The current context of the user's file; raises Failure unless its API server is ready."""
    if not kubeconfig.is_file():
        raise Failure(f"there is no file {kubeconfig}")
    name = ask(["kubectl", "--kubeconfig", kubeconfig, "config", "current-context"])
    if not name:
        raise Failure(f"{kubeconfig} has no current context")
    if ask(["kubectl", "--kubeconfig", kubeconfig, "get", "--raw", "/readyz", "--request-timeout=10s"]) != "ok":
        raise Failure(f"the API server of context {name.strip()} does not answer")
    return name.strip()


def push(lab: Lab, images: Sequence[Image], prefix: str) -> None:
    """Pushes the images as PREFIX/ryzanstein/<part>:<tag>; raises Failure that tells how when none is given."""
    if not prefix:
        commands = "\n".join(f"  docker push PREFIX/{image.name}" for image in images)
        raise Failure(
            "an existing cluster pulls its images: name a registry that this Docker may push to and the nodes may pull "
            f"from, as --registry PREFIX. Each image is then tagged and pushed:\n{commands}"
        )
    with step(f"pushing the images to {prefix}"):
        for image in images:
            log = lab.log(f"push-{image.part}")
            run(["docker", "tag", image.name, f"{prefix}/{image.name}"], log=log)
            run(["docker", "push", f"{prefix}/{image.name}"], log=log)


def forward(lab: Lab, kubeconfig: Path) -> None:
    """Keeps `kubectl port-forward` to the gateway running on the gateway's port of this machine."""
    if _gateway_answers(lab):
        return
    stop_forward(lab)
    log = lab.log("port-forward")
    log.parent.mkdir(parents=True, exist_ok=True)
    place = ["--namespace", NAMESPACE, f"service/{RELEASE}-gateway", f"{lab.gateway_port}:80"]
    with step(f"forwarding 127.0.0.1:{lab.gateway_port} to the gateway"), log.open("wb") as output:
        process = subprocess.Popen(
            ["kubectl", "--kubeconfig", str(kubeconfig), "port-forward", *place],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        _pid_file(lab).write_text(str(process.pid))
        deadline = time.monotonic() + 30
        while not _gateway_answers(lab):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure("kubectl port-forward did not come up", log)
            time.sleep(0.2)


def stop_forward(lab: Lab) -> None:
    """Ends the port-forward, if it runs."""
    try:
        pid = int(_pid_file(lab).read_text())
        if b"port-forward" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        pass
    _pid_file(lab).unlink(missing_ok=True)


def _pid_file(lab: Lab) -> Path:
    return lab.state / "port-forward.pid"


def _gateway_answers(lab: Lab) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{lab.gateway_port}/v1/models", timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
