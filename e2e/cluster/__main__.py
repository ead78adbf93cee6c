"""The project's cluster on this machine: see README.md beside this file.

up      cluster, images and release, each made only where it is missing or changed
demo    up, then the quickstart: a model served and a completion streamed
down    removes the cluster, the private daemon, its namespace and the forwarder
images  builds the images and prints their names
tools   brings the named programs (helm, kubectl, kind, etcd, prometheus, ...) where the pinned ones are missing
status  what is there
"""

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cluster
import debian
import demo
import engine
import existing
import forwarding
import go_tools
import images
import release
from console import Failure, explain, say, step
from lab import Lab

BROWSER = "chromium"
"""Not linked into the cache as the others are: it is installed."""


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    """One run at a time; a second one waits its turn and says so."""
    lab.state.mkdir(parents=True, exist_ok=True)
    with (lab.cache / f"{lab.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run on cluster {lab.name} to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _up(lab: Lab, options: argparse.Namespace) -> tuple[release.Connection, bool]:
    """Everything up to the release; returns the way in and whether the cluster is the private daemon's."""
    if options.kubeconfig:
        return _up_existing(lab, options), False
    chosen = engine.choose(lab, options.mode)
    go_tools.provide(lab, "kind", "kubectl", prefer_own=chosen.offline)
    go_tools.provide(lab, "helm")
    cluster.ensure(lab, chosen)
    built = images.ensure(lab, chosen)
    images.load(lab, chosen, built)
    connection = release.Connection(
        kubeconfig=str(lab.state / "kubeconfig"),
        context=lab.context,
        gateway=f"http://127.0.0.1:{lab.gateway_port}",
        worker_image=built[-1].name,
        nodes_are_containers=True,
        docker_host=os.environ.get("DOCKER_HOST", ""),
    )
    release.connect(lab, connection)
    release.ensure(lab, connection, built)
    return connection, chosen.offline


def _up_existing(lab: Lab, options: argparse.Namespace) -> release.Connection:
    go_tools.provide(lab, "kubectl", "helm")
    kubeconfig = Path(options.kubeconfig).resolve()
    name = existing.context(kubeconfig)
    say(f"cluster: the one of context {name} in {kubeconfig}")
    chosen = engine.choose(lab, options.mode)
    built = images.ensure(lab, chosen)
    existing.push(lab, built, options.registry)
    prefix = f"{options.registry}/"
    connection = release.Connection(
        kubeconfig=str(kubeconfig),
        context=name,
        gateway=f"http://127.0.0.1:{lab.gateway_port}",
        worker_image=prefix + built[-1].name,
        nodes_are_containers=False,
        docker_host="",
    )
    release.connect(lab, connection)
    release.ensure(lab, connection, built, prefix)
    existing.forward(lab, kubeconfig)
    return connection


def _down(lab: Lab, purge: bool) -> None:
    """Removes all that `up` made; a cluster that the user already had is left as it is, release included."""
    existing.stop_forward(lab)
    private = engine.answers(lab)
    if private:
        os.environ["DOCKER_HOST"] = f"unix://{lab.docker_socket}"
    go_tools.provide(lab, "kind", prefer_own=private)
    if cluster.nodes(lab):
        with step(f"deleting cluster {lab.name}"):
            cluster.delete(lab)
    forwarding.stop(lab)
    engine.stop_private(lab)
    shutil.rmtree(lab.state, ignore_errors=True)
    if purge:
        with step(f"removing {lab.cache} and the private daemon's images"):
            shutil.rmtree(lab.cache, ignore_errors=True)
            shutil.rmtree(f"/var/lib/{lab.name}-docker", ignore_errors=True)
    else:
        say(f"caches stay in {lab.cache} (--purge removes them)")


def _status(lab: Lab) -> None:
    if engine.answers(lab):
        os.environ["DOCKER_HOST"] = f"unix://{lab.docker_socket}"
        say(f"private Docker daemon: up (DOCKER_HOST={os.environ['DOCKER_HOST']})")
    names = cluster.nodes(lab)
    state = "healthy" if names and cluster.healthy(lab) else "not healthy" if names else "none"
    say(f"cluster {lab.name}: {state} {' '.join(names)}".rstrip())


def _run(lab: Lab, options: argparse.Namespace) -> None:
    match options.command:
        case "up":
            _up(lab, options)
        case "demo":
            demo.show(lab, *_up(lab, options))
        case "down":
            _down(lab, options.purge)
        case "images":
            for image in images.ensure(lab, engine.choose(lab, options.mode)):
                say(image.name)
        case "tools":
            go_tools.provide(lab, *(name for name in options.names if name != BROWSER), prefer_own=True)
            if BROWSER in options.names:
                debian.browser(lab)
        case "status":
            _status(lab)


def _arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python3 e2e/cluster", description=__doc__, formatter_class=formatter)
    parser.add_argument("command", choices=["up", "demo", "down", "images", "tools", "status"])
    parser.add_argument("names", nargs="*", choices=[*go_tools.NAMES, BROWSER, []], help="for tools: the programs")
    modes = ["auto", "stock", "offline"]
    parser.add_argument("--mode", choices=modes, default=os.environ.get("RYZANSTEIN_MODE", "auto"), help="which Docker")
    parser.add_argument("--kubeconfig", default="", help="use this cluster, which exists")
    parser.add_argument("--registry", default="", help="with --kubeconfig: where the images are pushed to")
    parser.add_argument("--purge", action="store_true", help="with down: the caches too")
    return parser.parse_args()


def main() -> int:
    """Runs one command; returns the exit status."""
    options = _arguments()
    lab = Lab.from_environment()
    started = time.monotonic()
    try:
        with _alone(lab):
            _run(lab, options)
    except Failure as failure:
        explain(failure)
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted: what was half-made is removed or made anew by the next run, which reuses the rest")
        return 130
    say(f"{options.command}: {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
