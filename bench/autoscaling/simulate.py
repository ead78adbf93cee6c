"""One policy over one trace: arrivals, scrapes and decisions in the order of time, and what came of it."""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bench.autoscaling.plant import Make, Plant
from bench.autoscaling.policies import Policy, View
from bench.autoscaling.traces import Request, Trace

SCRAPE_SECONDS = 5.0
"""As the bundled Prometheus scrapes; the same for all, unless the run says otherwise."""
RATE_SECONDS = 60.0
WAKE_SECONDS = 1.0
"""From a request that finds no replica to the operator's decision: the most that is allowed, not what is measured."""
SLO_SECONDS = 2.0
"""To the first token."""


@dataclass(frozen=True)
class Outcome:
    """hours: of replicas, asked for until gone. missed: share of requests whose first token came later than the SLO.
    first: seconds from a load step to the first new replica that answers, the mean of the steps. sizes: (time, size
    asked for, ready), at each change."""

    policy: str
    hours: float
    missed: float
    slowest: float
    worst_queue: int
    changes: int
    first: float | None
    sizes: tuple[tuple[float, int, int], ...]


class Scrapes:
    """What Prometheus knows: gauges and counters as of the last scrape."""

    def __init__(self) -> None:
        self.waiting = 0.0
        self.counter: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        self.busy_at = 0.0

    def scrape(self, plant: Plant) -> None:
        """One scrape of everything."""
        self.waiting = float(len(plant.queue))
        self.counter.append((plant.now, plant.tokens))
        while self.counter[0][0] < plant.now - RATE_SECONDS:
            self.counter.popleft()
        if plant.running or plant.queue:
            self.busy_at = plant.now

    @property
    def rate(self) -> float:
        """Tokens a second over the last minute."""
        (begin, least), (end, most) = self.counter[0], self.counter[-1]
        return (most - least) / (end - begin) if end > begin else 0.0


class Run:
    """One policy over one trace."""

    def __init__(self, trace: Trace, policy: Policy, make: Make, seed: int, scrape: float) -> None:
        self.trace, self.policy, self.scrape = trace, policy, scrape
        self.plant = Plant(make, random.Random(f"plant {seed}"))
        self.plant.begin(trace.start)
        self.scrapes = Scrapes()
        self.sizes = [(0.0, trace.start, trace.start)]
        self.changes = 0
        phase = random.Random(f"phase {seed}")
        self.next_scrape = phase.uniform(0.0, scrape)
        self.next_look = phase.uniform(0.0, policy.every)
        self.wake_at = float("inf")

    def until(self, time: float) -> None:
        """Scrape and decide until then."""
        while (event := min(self.next_scrape, self.next_look, self.wake_at)) <= time:
            self.plant.advance(event)
            if event == self.next_scrape:
                self.scrapes.scrape(self.plant)
                self._note()
                self.next_scrape += self.scrape
                continue
            if event == self.next_look:
                self.next_look += self.policy.every
            else:
                self.wake_at = float("inf")
            self._look()

    def arrived(self) -> None:
        """A request has come: at zero the gateways tell of it at once."""
        if self.policy.wakes and self.plant.wanted == 0 and self.wake_at == float("inf"):
            self.wake_at = self.plant.now + WAKE_SECONDS

    def _look(self) -> None:
        plant, now = self.plant, self.plant.now
        view = View(
            plant.wanted,
            plant.ready,
            self.scrapes.waiting,
            self.scrapes.rate,
            len(plant.queue),
            now - plant.busy_at,
            now - self.scrapes.busy_at < self.policy.targets.idle,
        )
        size = self.policy.size(view, now)
        if size != plant.wanted:
            self.changes += 1
            plant.resize(size)
            self._note()

    def _note(self) -> None:
        state = (self.plant.now, self.plant.wanted, self.plant.ready)
        if state[1:] != self.sizes[-1][1:]:
            self.sizes.append(state)

    def outcome(self) -> Outcome:
        """All that is counted."""
        self.plant.close()
        found = sorted(self.plant.latencies)
        late = len(found) - bisect_right(found, SLO_SECONDS)
        firsts = [
            min((t - step for t in self.plant.became_ready if t > step), default=None) for step in self.trace.steps
        ]
        known = [first for first in firsts if first is not None]
        return Outcome(
            self.policy.name,
            self.plant.cost / 3600,
            late / len(found),
            found[-1],
            self.plant.worst_queue,
            self.changes,
            sum(known) / len(known) if known else None,
            tuple(self.sizes),
        )


def run(
    trace: Trace, requests: Iterable[Request], policy: Policy, make: Make, seed: int, scrape: float = SCRAPE_SECONDS
) -> Outcome:
    """From the trace's beginning to its end."""
    one = Run(trace, policy, make, seed, scrape)
    for request in requests:
        one.until(request.at)
        one.plant.arrive(request)
        one.arrived()
    one.until(trace.seconds)
    one.plant.advance(trace.seconds)
    return one.outcome()
