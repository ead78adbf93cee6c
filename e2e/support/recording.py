"""What becomes of one service over time, as a watch tells it: each step of each pod with the moment it was seen.

Times are of time.monotonic(), taken when a line of the watch arrives: finer than the whole seconds of timestamps.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster_view import OURS, ClusterView
from stories import Manifest

_STEPS = ("created", "scheduled", "started", "ready")


@dataclass
class Recording:
    """steps: for each pod, when it was first seen created, scheduled, started (its worker's container runs) and ready.
    sizes: (moment, desired, ready) whenever one of the two numbers changes."""

    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: list[tuple[float, int, int]] = field(default_factory=list)

    def take(self, seen: Manifest) -> None:
        """One object as the watch shows it now."""
        now, status = time.monotonic(), seen.get("status", {})
        if seen["kind"] == "Pod":
            self._take_pod(seen["metadata"]["name"], status, now)
        elif "desiredReplicas" in status:
            size = (int(status["desiredReplicas"]), int(status.get("readyReplicas", 0)))
            if not self.sizes or self.sizes[-1][1:] != size:
                self.sizes.append((now, *size))

    def _take_pod(self, name: str, status: Manifest, now: float) -> None:
        steps = self.steps.setdefault(name, {})
        done = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
        running = any("running" in one.get("state", {}) for one in status.get("containerStatuses", ()))
        for step, reached in zip(_STEPS, (True, "PodScheduled" in done, running, "Ready" in done), strict=True):
            if reached:
                steps.setdefault(step, now)

    def grown(self, since: float) -> float:
        """When more replicas were wanted than at that moment, for the first time. Raises StopIteration if never."""
        before = [wanted for at, wanted, _ in self.sizes if at < since]
        return next(at for at, wanted, _ in self.sizes if at >= since and wanted > (before[-1] if before else 0))

    def size_reached(self, desired: int, since: float) -> float | None:
        """When so many replicas were wanted for the first time after a moment."""
        return next((at for at, wanted, _ in self.sizes if at >= since and wanted == desired), None)


@contextmanager
def recording(cluster: ClusterView, name: str) -> Iterator[Recording]:
    """Watches the service and its pods until the block ends."""
    made = Recording()
    watches = [
        _watch(cluster, made, "pods", "-l", f"{OURS}={name}"),
        _watch(cluster, made, "inferenceservices.ryzanstein.dev", f"--field-selector=metadata.name={name}"),
    ]
    try:
        yield made
    finally:
        for watch in watches:
            watch.terminate()
            watch.wait(10)
            if watch.stdout is not None:
                watch.stdout.close()


def _watch(cluster: ClusterView, made: Recording, *what: str) -> "subprocess.Popen[str]":
    command = cluster.command("get", *what, "--watch", "-o", "json")
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert watch.stdout is not None
        text, decoder = "", json.JSONDecoder()
        for line in watch.stdout:
            text += line
            if line.rstrip("\n") == "}":  # kubectl indents: this closes an object
                made.take(decoder.decode(text))
                text = ""

    threading.Thread(target=read, name=f"watch {what[0]}", daemon=True).start()
    return watch
