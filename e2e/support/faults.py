"""What every story of a fault does: clients stream, something breaks, the load goes on, and what was seen is told."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from chaos import Ask, Seen, Told, clients
from cluster_view import READ_METRICS, ClusterView, KubectlError, Release
from ryzanstein_worker.contract import LABEL_POD_INDEX, NUM_REQUESTS_RUNNING
from stories import Gateway, Manifest, conditions, until

MIN_REQUESTS = 1000
FEWER_REQUESTS = 400
"""Where the fault lasts for so long by itself, or is much like another, that more would show nothing."""
BEFORE = 100
"""Requests before the fault, so that it meets a service at work."""


@dataclass(frozen=True)
class Story:
    """One service under load, and the release that serves it."""

    model: str
    cluster: ClusterView
    release: Release
    gateway: Gateway
    answers: dict[Ask, Told]

    @contextmanager
    def under_load(self, title: str, least: int = MIN_REQUESTS) -> Iterator["Watched"]:
        """The block breaks something; then the load goes on to `least` requests and what was seen is printed."""
        with clients(self.gateway, self.model, self.answers) as seen:
            until(240, f"{BEFORE} requests before the fault", lambda: seen.requests >= BEFORE, every=0.05)
            # A node that has just come back may be Ready before the gateways reach its pods again.
            until(240, "every replica is at work", lambda: all(map(self.running, self.servers())))
            watched = Watched(self, seen, least)
            yield watched
            until(800, f"{least} requests", lambda: seen.requests >= least)
        seen.report(title, *watched.times)

    def servers(self) -> list[Manifest]:
        """The pods that clients' requests go to: all of them, or the first of each group."""
        return [p for p in self.cluster.pods(self.model) if p["metadata"]["labels"].get(LABEL_POD_INDEX, "0") == "0"]

    def running(self, pod: Manifest) -> float:
        """The requests that a worker has in its engine; none where it cannot be asked, as on a node just come back."""
        try:
            text = self.cluster.kubectl("exec", pod_name(pod), "-c", "worker", "--", "python", "-c", READ_METRICS)
        except KubectlError:
            return 0.0
        return sum(map(float, re.findall(rf"^{NUM_REQUESTS_RUNNING}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    def migrations(self) -> float:
        return self.release.gateway_metric("ryzanstein_gateway_migrations_total")

    def status(self) -> Manifest:
        return dict(self.cluster.service(self.model).get("status", {}))

    def condition(self, kind: str) -> Manifest:
        return dict(conditions(self.cluster.service(self.model))[kind])


@dataclass
class Watched:
    """A fault and what followed it, in seconds since it."""

    story: Story
    seen: Seen
    least: int
    since: float = field(default_factory=time.monotonic)
    times: list[str] = field(default_factory=list)

    def struck(self) -> None:
        """The fault is now."""
        self.since = time.monotonic()

    def within(self, seconds: float, what: str, check: Callable[[], Any]) -> Any:
        """Wait for what must follow the fault within `seconds`, and note when it did."""
        left = self.since + seconds - time.monotonic()
        found = until(max(left, 0), what, check, every=0.2)
        self.times.append(f"{what} after {time.monotonic() - self.since:.1f} s")
        return found


def unharmed(watched: Watched) -> None:
    """No client noticed anything."""
    assert watched.seen.failures == []
    assert watched.seen.different == []
    assert watched.seen.requests >= watched.least


def pod_name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def uids(pods: list[Manifest]) -> set[str]:
    return {str(pod["metadata"]["uid"]) for pod in pods}


def restarts(pod: Manifest) -> int:
    """How often the pod's containers were started again."""
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


EAT_MEMORY = """
import os, time
for _ in range(400):
    if os.fork() == 0:
        block = bytearray(os.urandom(4096)) * (40 * 256)
        time.sleep(60)
        os._exit(0)
    time.sleep(0.1)
"""
"""In a container: many small processes, so that the kernel, when memory runs out, kills the program that it is for."""
