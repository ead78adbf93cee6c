"""`drain`: takes replicas out one after the other without a failed request, and tells how far it is.

The eviction API does the work: it heeds the PodDisruptionBudget, and a worker that is told to go lets its streams end
or move. What this adds is the order, the waiting, and words.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from ryzanstein_kubectl.cluster.evict import cordon, evict, pod_named, pods_on
from ryzanstein_kubectl.cluster.look import Looker, Scope, pods_of, services_of
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.commands.common import access_of
from ryzanstein_kubectl.model.ages import parse_span, short
from ryzanstein_kubectl.model.drain import (
    Batch,
    Progress,
    Target,
    batches,
    parse_target,
    progress,
    ready_replicas,
    replica_pods,
)
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_kubectl.model.snapshot import Snapshot, leaves
from ryzanstein_kubectl.view.drain_view import DrainView
from ryzanstein_kubectl.view.terminal import console
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError

HELP = "take replicas out, one at a time, without a failed request"
EXAMPLES = """TARGET is pod/NAME, node/NAME (all replicas on it; it is cordoned first) or SERVICE/REPLICA, where
REPLICA is the name of a pod or of a group, or its end. Of a group one pod goes, and the others start anew with its
successor.
Ctrl-C leaves things as they are.

examples:
  kubectl ryzanstein drain node/gpu-3
  kubectl ryzanstein drain chat/x7k2p --timeout 30m
"""
POLL_SECONDS = 1.0
SETTLE_SECONDS = 3.0
"""For a group: its other pods are started anew a moment after the one that left, and only then stop being ready."""
DEFAULT_TIMEOUT = "15m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="pod/NAME, node/NAME or SERVICE/REPLICA")
    parser.add_argument("--timeout", type=_span, default=_span(DEFAULT_TIMEOUT), help=f"default: {DEFAULT_TIMEOUT}")


def _span(text: str) -> int:
    seconds = parse_span(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 15m or 1h")
    return seconds


async def run(arguments: argparse.Namespace) -> int:
    target = parse_target(arguments.target)
    session = await Session.open(access_of(arguments))
    view = DrainView(console(), json=arguments.output == "json")
    drain = Drain(session, view, deadline=time.monotonic() + arguments.timeout)
    try:
        await drain.run(target, arguments)
    except asyncio.CancelledError:
        view.close()
        print(f"Stopped. {drain.left()}", file=sys.stderr)
        raise
    except TimeoutError:
        view.close()
        raise CommandError(f"The drain took longer than {short(arguments.timeout)}. {drain.left()}") from None
    finally:
        view.close()
        await session.close()
    return 0


class Drain:
    """One drain: what is to go, what has gone."""

    def __init__(self, session: Session, view: DrainView, deadline: float) -> None:
        self._session, self._view, self._deadline = session, view, deadline
        self._todo: tuple[Batch, ...] = ()
        self._done = 0
        self._going = ""
        self._cordoned = ""

    def left(self) -> str:
        """What stands as it is when the drain ends early."""
        parts = [f"{self._done} of {len(self._todo)} replicas are drained."] if self._todo else []
        if self._going:
            parts.append(f"{self._going} has been told to go and finishes its requests.")
        if self._cordoned:
            parts.append(f"Node {self._cordoned} stays cordoned; kubectl uncordon {self._cordoned} undoes that.")
        return " ".join(parts) or "Nothing has been changed."

    async def run(self, target: Target, arguments: argparse.Namespace) -> None:
        self._todo = batches(await self._chosen(target, arguments))
        if not self._todo:
            self._view.told("nothing", f"No replica runs on {target.name}.")
        for batch in self._todo:
            await self._batch(batch)
            self._done += 1
        if node := self._cordoned:
            self._view.told(
                "finished", f"Node {node} is cordoned and holds no replica; kubectl uncordon {node} undoes it."
            )

    async def _chosen(self, target: Target, arguments: argparse.Namespace) -> Sequence[Manifest]:
        if target.kind == "node":
            fresh = await cordon(self._session, target.name)
            self._cordoned = target.name
            self._view.told("cordoned", f"Node {target.name} {'is cordoned' if fresh else 'was cordoned already'}.")
            return await pods_on(self._session, target.name, arguments.namespace)
        if target.kind == "pod":
            return [await pod_named(self._session, self._session.namespace, target.name)]
        scope = Scope(self._session.namespace, target.service)
        await services_of(self._session, scope)
        return replica_pods(target, await pods_of(self._session, scope))

    async def _batch(self, batch: Batch) -> None:
        """One replica, from the first eviction until it is replaced."""
        looker, started = Looker(self._session, Scope(batch.namespace, batch.service)), time.monotonic()
        before = ready_replicas((await looker.status()).pods, (batch.namespace, batch.service))
        if before == 1 and batch.serves:
            self._view.told("alone", f"{batch} is the only replica that is ready: requests wait until another one is.")
        for pod in batch.pods:
            await self._evict(pod, batch)
        self._going = str(batch)
        words = await self._replaced(batch, before, looker)
        which = f" ({self._done + 1} of {len(self._todo)})" if len(self._todo) > 1 else ""
        self._view.told("replaced", f"{batch} is drained{which} after {short(time.monotonic() - started)}: {words}.")

    async def _replaced(self, batch: Batch, before: int, looker: Looker) -> str:
        """Until its pods are gone and as many replicas are ready as before. Gives the last words."""
        whole_since: float | None = None
        while True:
            snapshot = await self._look(looker, batch)
            state = progress(batch, before, snapshot) if snapshot else Progress(False, False, "")
            if state.gone and self._going:
                self._going = ""
                self._view.told("gone", f"{batch} is gone.")
            if not state.whole:
                whole_since = None
            elif whole_since is None:
                whole_since = time.monotonic()
            if whole_since and time.monotonic() - whole_since >= (SETTLE_SECONDS if batch.group else 0.0):
                return state.words
            if state.words:
                self._view.waiting(str(batch), state.words)
            await self._pause(POLL_SECONDS)

    async def _look(self, looker: Looker, batch: Batch) -> Snapshot | None:
        try:
            return await looker.status()
        except ApiError as error:
            if not error.transient:
                raise
            self._view.waiting(str(batch), f"the API server does not answer: {error.sentence}")
            return None

    async def _evict(self, pod: Manifest, batch: Batch) -> None:
        """Until the API server lets the pod go."""
        who = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        if leaves(pod):
            self._view.told("leaving", f"{who} is on its way out already.")
            return
        while True:
            answer = await evict(self._session, pod)
            if answer.outcome != "refused":
                verb = "is told to go" if answer.outcome == "evicted" else "has gone by itself"
                self._view.told(answer.outcome, f"{who} {verb}.")
                return
            self._view.waiting(str(batch), f"may not go yet: {answer.words}")
            await self._pause(max(answer.again_seconds, POLL_SECONDS))

    async def _pause(self, seconds: float) -> None:
        """Raises TimeoutError when the drain has taken too long."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        await asyncio.sleep(min(seconds, left))
