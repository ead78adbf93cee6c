"""The project's cluster on this machine: `python3 e2e/cluster up|demo|down|...` (see README.md beside this file)."""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cluster
import engine
import forwarding
import go_tools
import images
from console import Failure, explain, say, step
from lab import Lab


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


def _up(lab: Lab, options: argparse.Namespace) -> None:
    chosen = engine.choose(lab, options.mode)
    go_tools.provide(lab, "kind", "kubectl", prefer_own=chosen.offline)
    built = images.ensure(lab, chosen)
    cluster.ensure(lab, chosen)
    images.load(lab, built)


def main() -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="e2e/cluster", description=__doc__)
    parser.add_argument("command", choices=["up"])
    parser.add_argument("--mode", choices=["auto", "stock", "offline"], default=os.environ.get("RYZANSTEIN_MODE", "auto"))
    options = parser.parse_args()
    lab = Lab.from_environment()
    started = time.monotonic()
    try:
        with _alone(lab):
            _up(lab, options)
    except Failure as failure:
        explain(failure)
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; what was half-made has been removed, the rest is reused by the next run")
        return 130
    say(f"total: {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
