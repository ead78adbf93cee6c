"""Which Docker: the user's own where it can fetch images, else a private daemon in a network namespace of its own.

The private daemon is for machines without an engine or without a registry. Nothing its containers send leaves the
namespace: no route leads out of it, not even to this machine.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

import debian
from console import Failure, ask, run, say, step
from lab import HERE, Lab

Mode = Literal["stock", "offline"]
STOCK_BASE_IMAGE = "python:3.13-slim"


@dataclass(frozen=True)
class Engine:
    """The Docker in use. `offline` means that no image can be pulled."""

    mode: Mode

    @property
    def offline(self) -> bool:
        return self.mode == "offline"


def choose(lab: Lab, wanted: str) -> Engine:
    """Finds out which engine to use, or takes `wanted` ("stock", "offline"; "auto" finds out), and says so."""
    if wanted == "auto":
        if ask(["docker", "version"], timeout=20) is None:
            wanted, why = "offline", "no Docker daemon answers"
        elif _can_pull():
            wanted, why = "stock", "Docker answers and pulls images"
        else:
            wanted, why = "offline", "Docker answers but no image registry is in reach"
    else:
        why = "as asked"
    told = {"stock": "kind's stock node image on your Docker", "offline": "own node image on a private Docker daemon"}
    say(f"cluster: {told[wanted]} ({why}; --mode stock|offline forces it)")
    if wanted == "offline":
        os.environ["DOCKER_HOST"] = f"unix://{lab.docker_socket}"
        os.environ["DOCKER_BUILDKIT"] = "0"
        start_private(lab)
        return Engine("offline")
    return Engine("stock")


def _can_pull() -> bool:
    if ask(["docker", "image", "inspect", STOCK_BASE_IMAGE]) is not None and ask(
        ["docker", "image", "inspect", "kindest/node"]
    ):
        return True
    return ask(["docker", "pull", "-q", STOCK_BASE_IMAGE], timeout=120) is not None


def answers(lab: Lab) -> bool:
    """Whether the private daemon is up."""
    return ask(["docker", "-H", f"unix://{lab.docker_socket}", "version"], timeout=20) is not None


def start_private(lab: Lab) -> None:
    """Starts the private daemon unless it is up."""
    if os.geteuid() != 0:
        raise Failure("a private Docker daemon needs root; give this user a Docker with a registry, or run as root")
    debian.install(
        lab,
        {"dockerd": "docker.io", "docker": "docker.io", "containerd": "containerd", "runc": "runc"}
        | {"iptables": "iptables", "ip": "iproute2", "nsenter": "util-linux"},
    )
    with step("private Docker daemon") as current:
        if answers(lab):
            current.note = "reused"
            return
        _make_namespace(lab)
        _clear_stale_pid(lab)
        log = lab.log("dockerd")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            daemon = subprocess.Popen(
                _daemon_command(lab),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for the step, not for the daemon
            )
        deadline = time.monotonic() + 60
        while not answers(lab):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Failure("the private Docker daemon did not start", log)
            time.sleep(0.2)


def _make_namespace(lab: Lab) -> None:
    log = lab.log("dockerd")
    if not lab.netns.exists():
        run(["ip", "netns", "add", lab.name], log=log)
    enter = ["nsenter", f"--net={lab.netns}"]
    run([*enter, "ip", "link", "set", "lo", "up"], log=log)
    run([*enter, "sysctl", "-qw", "net.ipv4.ip_forward=1"], log=log)


def _daemon_command(lab: Lab) -> list[str]:
    # The daemon outlives this checkout: it must not point into it.
    runtime = lab.cache / "runc-bounded"
    spare = runtime.with_suffix(".new")
    shutil.copy2(HERE / "runc-bounded", spare)
    os.replace(spare, runtime)
    return [
        # nsenter, not 'ip netns exec': the latter remounts /sys and hides the cgroups.
        *("nsenter", f"--net={lab.netns}", "dockerd"),
        *("--data-root", f"/var/lib/{lab.name}-docker"),
        *("--exec-root", f"/run/{lab.name}-docker"),
        *("--pidfile", str(_pid_file(lab))),
        *("-H", f"unix://{lab.docker_socket}"),
        *("--add-runtime", f"bounded={runtime}", "--default-runtime", "bounded"),
    ]


def _pid_file(lab: Lab) -> str:
    return f"/run/{lab.name}-docker.pid"


def _daemon_pid(lab: Lab) -> int | None:
    """The private daemon's process, or None; a number that now belongs to another program is no daemon."""
    try:
        with open(_pid_file(lab)) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/comm") as file:
            return pid if file.read().strip() == "dockerd" else None
    except (OSError, ValueError):
        return None


def _clear_stale_pid(lab: Lab) -> None:
    if _daemon_pid(lab) is None and os.path.exists(_pid_file(lab)):
        os.unlink(_pid_file(lab))


def stop_private(lab: Lab) -> None:
    """Stops the private daemon, if there is one, and removes its namespace. Its images stay on disk."""
    pid = _daemon_pid(lab)
    if pid is not None:
        with step("stopping the private Docker daemon"):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 60
            while _daemon_pid(lab) == pid:
                if time.monotonic() > deadline:
                    raise Failure(f"dockerd (process {pid}) does not stop", lab.log("dockerd"))
                time.sleep(0.2)
    if lab.netns.exists():
        ask(["ip", "netns", "del", lab.name])
    if not answers(lab):
        shutil.rmtree(f"/run/{lab.name}-docker", ignore_errors=True)
