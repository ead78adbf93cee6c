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
from typing import IO

from cluster_view import OURS, ClusterView
from stories import Manifest

AGAIN_SECONDS = 0.5
END_SECONDS = 60.0
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
        done = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
        running = any("running" in one.get("state", {}) for one in status.get("containerStatuses", ()))
        reached = zip(_STEPS, (True, "PodScheduled" in done, running, "Ready" in done), strict=True)
        # All at once: others look while this thread writes.
        self.steps[name] = {step: now for step, so in reached if so} | self.steps.get(name, {})

    def made_since(self, moment: float) -> list[str]:
        """The pods that were first seen after it."""
        return [name for name, steps in list(self.steps.items()) if steps["created"] >= moment]

    def grown(self, since: float) -> float | None:
        """When more replicas were wanted than at that moment, for the first time."""
        sizes = list(self.sizes)
        before = [wanted for at, wanted, _ in sizes if at < since]
        return next((at for at, wanted, _ in sizes if at >= since and wanted > (before[-1] if before else 0)), None)

    def size_reached(self, desired: int, since: float) -> float | None:
        """When so many replicas were wanted for the first time after a moment."""
        return next((at for at, wanted, _ in self.sizes if at >= since and wanted == desired), None)


@contextmanager
def recording(cluster: ClusterView, name: str) -> Iterator[Recording]:
    """Watches the service and its pods until the block ends."""
    made = Recording()
    watches = [
        _Watch(cluster, made, "pods", "-l", f"{OURS}={name}"),
        _Watch(cluster, made, "inferenceservices.ryzanstein.dev", f"--field-selector=metadata.name={name}"),
    ]
    for watch in watches:
        watch.start()
    try:
        yield made
    finally:
        for watch in watches:
            watch.end()


class _Watch(threading.Thread):
    """Reads `kubectl get --watch`, and begins anew where that ends before it is told to, as it does when the API server
    is away for a moment on a starved machine. A watch begins with all that is there, so that only moments are late."""

    def __init__(self, cluster: ClusterView, made: Recording, *what: str) -> None:
        super().__init__(name=f"watch {what[0]}", daemon=True)
        self._command, self._made = cluster.command("get", *what, "--watch", "-o", "json"), made
        self._over, self._lock = threading.Event(), threading.Lock()
        self._kubectl: subprocess.Popen[str] | None = None

    def run(self) -> None:
        while kubectl := self._begin():
            with kubectl:
                assert kubectl.stdout is not None
                self._read(kubectl.stdout)
            self._over.wait(AGAIN_SECONDS)

    def end(self) -> None:
        """Read no more."""
        with self._lock:
            self._over.set()
            if self._kubectl is not None:
                self._kubectl.terminate()
        self.join(END_SECONDS)
        assert not self.is_alive(), "kubectl did not end"

    def _begin(self) -> "subprocess.Popen[str] | None":
        with self._lock:
            over = self._over.is_set()
            self._kubectl = None if over else subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
            return self._kubectl

    def _read(self, lines: IO[str]) -> None:
        text, decoder = "", json.JSONDecoder()
        for line in lines:
            text += line
            if line.rstrip("\n") == "}":  # kubectl indents: this closes an object
                self._made.take(decoder.decode(text))
                text = ""
