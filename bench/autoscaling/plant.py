"""Replicas, requests and one queue in simulated time: what is sized. Knows no policy and no metric's name.

A replica has a number of slots; a request takes one, waits for its prefill, and then gets its tokens at a fixed rate.
What finds no slot waits in one queue, as at the gateways, for as long as it takes: nobody gives up. A replica that is
to go takes no more requests and goes when its last one ends; it costs until then, and from when it was asked for.
"""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from bench.autoscaling.traces import Request


@dataclass(frozen=True)
class Make:
    """start: seconds from asking for a replica to its first answer, give or take a tenth; slots: requests at one time;
    prefill: seconds; speed: tokens a second of one request; mean_tokens: of a request."""

    start: float
    slots: int = 8
    prefill: float = 0.2
    speed: float = 25.0
    mean_tokens: int = 200

    @property
    def tokens_per_second(self) -> float:
        """What one full replica generates."""
        return self.slots * self.speed

    @property
    def requests_per_second(self) -> float:
        """What one full replica carries."""
        return self.slots / (self.prefill + self.mean_tokens / self.speed)


@dataclass
class Replica:
    """One copy; ready from `ready_at` on."""

    number: int
    asked_at: float
    ready_at: float
    running: int = 0
    leaving: bool = False


@dataclass
class Plant:
    """Call `advance` to let time pass; in between, `resize` and the figures."""

    make: Make
    chance: random.Random
    now: float = 0.0
    wanted: int = 0
    queue: deque[Request] = field(default_factory=deque)
    replicas: dict[int, Replica] = field(default_factory=dict)
    tokens: float = 0.0
    busy_at: float = 0.0
    cost: float = 0.0
    latencies: list[float] = field(default_factory=list)
    worst_queue: int = 0
    became_ready: list[float] = field(default_factory=list)
    _ends: list[tuple[float, int]] = field(default_factory=list)
    _starts: list[tuple[float, int]] = field(default_factory=list)
    _made: int = 0

    def begin(self, replicas: int) -> None:
        """Start with so many, ready."""
        self.resize(replicas)
        for replica in self.replicas.values():
            replica.ready_at = 0.0
        self._starts.clear()

    @property
    def running(self) -> int:
        """Requests in a slot."""
        return len(self._ends)

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return sum(one.ready_at <= self.now and not one.leaving for one in self.replicas.values())

    def resize(self, wanted: int) -> None:
        """Make what is missing; let go of what is too much: first what is still starting, then what has least to do."""
        self.wanted = wanted
        staying = [one for one in self.replicas.values() if not one.leaving]
        for _ in range(wanted - len(staying)):
            self._made += 1
            ready_at = self.now + self.make.start * self.chance.uniform(0.9, 1.1)
            self.replicas[self._made] = Replica(self._made, self.now, ready_at)
            heapq.heappush(self._starts, (ready_at, self._made))
        staying.sort(key=lambda one: (one.ready_at <= self.now, one.running, -one.number))
        for one in staying[: max(len(staying) - wanted, 0)]:
            one.leaving = True
            self._leave(one)

    def arrive(self, request: Request) -> None:
        """Let time pass until it comes, and take it in."""
        self.advance(request.at)
        self.busy_at = self.now
        self.queue.append(request)
        self._serve()
        self.worst_queue = max(self.worst_queue, len(self.queue))

    def advance(self, until: float) -> None:
        """Let time pass."""
        while True:
            end = self._ends[0][0] if self._ends else float("inf")
            start = self._starts[0][0] if self._starts else float("inf")
            if min(end, start) > until:
                break
            self._pass(min(end, start))
            self._start() if start <= end else self._end()
            self._serve()
        self._pass(until)

    def close(self) -> None:
        """Count what is still there."""
        for one in self.replicas.values():
            self.cost += self.now - one.asked_at
        self.replicas.clear()

    def _pass(self, until: float) -> None:
        self.tokens += self.running * self.make.speed * (until - self.now)
        self.now = until
        if self.running or self.queue:
            self.busy_at = until

    def _start(self) -> None:
        _, number = heapq.heappop(self._starts)
        if number in self.replicas and not self.replicas[number].leaving:
            self.became_ready.append(self.now)

    def _end(self) -> None:
        _, number = heapq.heappop(self._ends)
        replica = self.replicas[number]
        replica.running -= 1
        self._leave(replica)

    def _leave(self, replica: Replica) -> None:
        if replica.leaving and not replica.running:
            self.cost += self.now - replica.asked_at
            del self.replicas[replica.number]

    def _serve(self) -> None:
        while self.queue:
            able = [
                one
                for one in self.replicas.values()
                if one.ready_at <= self.now and not one.leaving and one.running < self.make.slots
            ]
            if not able:
                return
            replica, request = min(able, key=lambda one: one.running), self.queue.popleft()
            replica.running += 1
            self.latencies.append(self.now - request.at + self.make.prefill)
            ends = self.now + self.make.prefill + request.tokens / self.make.speed
            heapq.heappush(self._ends, (ends, replica.number))
