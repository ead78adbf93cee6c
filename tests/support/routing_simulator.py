"""Replicas and gateways in simulated time, to compare routing policies on the same arrivals.

Real: balance.choose, prefix.PrefixMemory, latency.Latency. Simulated: replicas with places in a batch, a KV cache and a
prefix cache; several gateways, each of which reads every replica's page once a second and sees nothing of the others
but through it.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, pstdev, quantiles
from typing import Final

from routing_arrivals import Arrival
from routing_replica import Job, Replica
from ryzanstein_gateway.balance import Candidate, Choice, Endpoint, Load, Policy, Why, choose
from ryzanstein_gateway.latency import Latency
from ryzanstein_gateway.prefix import PrefixMemory

PAGE_SECONDS: Final = 1.0
"""Between two readings of a replica's page by one gateway."""
SAMPLE_SECONDS: Final = 0.25


@dataclass
class Gateway:
    """What one gateway process knows: its own requests, and pages that are up to a second old."""

    hosts: Sequence[Endpoint]
    policy: Policy
    draws: random.Random
    turns: "itertools.count[int]" = field(default_factory=itertools.count)
    own: Counter[int] = field(default_factory=Counter)
    pages: dict[int, tuple[float, Load]] = field(default_factory=dict)
    latencies: dict[int, Latency] = field(default_factory=dict)
    prefixes: PrefixMemory = field(default_factory=PrefixMemory)

    def read_page(self, number: int, replica: Replica, now: float) -> None:
        """Read a replica's page."""
        load = Load(
            running=len(replica.running),
            waiting=len(replica.waiting),
            kv_cache_usage=min(1.0, replica.used / replica.kv_tokens),
            max_num_seqs=replica.places,
            in_flight=self.own[number],
        )
        self.pages[number] = (now, load)

    def told(self, job: Job, now: float) -> None:
        """The first byte of an answer came."""
        if self.pages[job.replica][1].waiting == 0:
            self.latencies.setdefault(job.replica, Latency()).observe(job.first_byte, now)

    def pick(self, pieces: tuple[int, ...], down: frozenset[int], now: float) -> Choice:
        """The choice, by what is known now. `down`: replicas that checks have found bad."""
        candidates = [self._candidate(number, down, now) for number in range(len(self.hosts))]
        prefix = None
        if self.policy is Policy.PREFIX_AWARE:
            prefix = self.prefixes.look_up(pieces, [one.host for one in self.hosts])
        choice = choose(candidates, self.policy, turn=next(self.turns), draw=self.draws.random(), prefix=prefix)
        assert choice is not None
        self.prefixes.remember(choice.endpoint.host, pieces)
        return choice

    def _candidate(self, number: int, down: frozenset[int], now: float) -> Candidate:
        at, page = self.pages[number]
        known = self.latencies.get(number)
        load = Load(
            running=page.running,
            waiting=page.waiting,
            kv_cache_usage=page.kv_cache_usage,
            max_num_seqs=page.max_num_seqs,
            in_flight=page.in_flight,
            latency_seconds=known.recent(now) if known else None,
            age_seconds=now - at,
        )
        return Candidate(self.hosts[number], self.own[number], load, tier=int(number in down))


@dataclass(frozen=True)
class Outcome:
    """What came of one run. `depths`: requests at each replica, sampled each SAMPLE_SECONDS."""

    jobs: list[Job]
    depths: list[tuple[int, ...]]
    whys: Counter[Why]

    def wait(self, percent: int) -> float:
        """Percentile of the seconds from arrival to start."""
        return quantiles([job.wait for job in self.jobs], n=100)[percent - 1]

    def first_byte(self, percent: int) -> float:
        """Percentile of the seconds from arrival to the first byte."""
        return quantiles([job.first_byte for job in self.jobs], n=100)[percent - 1]

    def counts(self) -> list[int]:
        """Requests by replica."""
        counted = Counter(job.replica for job in self.jobs)
        return [counted[number] for number in range(len(self.depths[0]))]

    def imbalance(self) -> float:
        """How much more than the mean the busiest replica got."""
        return max(self.counts()) / fmean(self.counts()) - 1

    def swing(self) -> float:
        """Standard deviation of the difference between the fullest and the mean replica, in requests: ping-pong
        makes it large."""
        return pstdev([depth - fmean(sample) for sample in self.depths for depth in sample])

    def peak(self) -> float:
        """The fullest replica against the mean one, where there is work: mean over the samples."""
        return fmean(max(sample) / fmean(sample) for sample in self.depths if sum(sample) >= 4 * len(sample))

    def hit_rate(self) -> float:
        """Share of the prompts' pieces that were cached."""
        return sum(job.cached for job in self.jobs) / sum(len(job.arrival.pieces) for job in self.jobs)


Pick = Callable[[Gateway, tuple[int, ...], frozenset[int], float], Choice]
Down = Callable[[float], frozenset[int]]


def nobody(_now: float) -> frozenset[int]:
    """No replica is found bad."""
    return frozenset()


def simulate(
    arrivals: Sequence[Arrival],
    policy: Policy,
    replicas: Sequence[Replica],
    *,
    gateways: int = 3,
    down: Down = nobody,
    pick: Pick = Gateway.pick,
) -> Outcome:
    """Serve all arrivals. `down` tells which replicas are found bad at a time; `pick` replaces the gateways' choice."""
    return _Run(arrivals, policy, replicas, gateways, down, pick).outcome


class _Run:
    """One run: events in order of time, each a function and its arguments; the time comes last."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        policy: Policy,
        replicas: Sequence[Replica],
        gateways: int,
        down: Down,
        pick: Pick,
    ) -> None:
        self.outcome = Outcome([], [], Counter())
        self._draws = random.Random(99)
        self._replicas, self._down, self._pick = replicas, down, pick
        self._hosts = [Endpoint(f"10.0.0.{number}") for number in range(len(replicas))]
        self._doors = [Gateway(self._hosts, policy, random.Random(self._draws.random())) for _ in range(gateways)]
        self._last = arrivals[-1].at
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        for door, number in itertools.product(self._doors, range(len(replicas))):
            door.read_page(number, replicas[number], 0.0)
            self._at(self._draws.random() * PAGE_SECONDS, partial(self._read, door, number))
        for arrival in arrivals:
            self._at(arrival.at, partial(self._come, arrival))
        self._sample(0.0)
        while self._events:
            now, _, what = heapq.heappop(self._events)
            what(now)

    def _at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def _read(self, door: Gateway, number: int, now: float) -> None:
        door.read_page(number, self._replicas[number], now)
        if now < self._last:
            self._at(now + PAGE_SECONDS, partial(self._read, door, number))

    def _sample(self, now: float) -> None:
        self.outcome.depths.append(tuple(replica.depth for replica in self._replicas))
        if now < self._last:
            self._at(now + SAMPLE_SECONDS, self._sample)

    def _come(self, arrival: Arrival, now: float) -> None:
        door = self._draws.randrange(len(self._doors))
        choice = self._pick(self._doors[door], arrival.pieces, self._down(now), now)
        self.outcome.whys[choice.why] += 1
        number = self._hosts.index(choice.endpoint)
        self._doors[door].own[number] += 1
        self._replicas[number].waiting.append(Job(arrival, door, number))
        self._start(number, now)

    def _start(self, number: int, now: float) -> None:
        while self._replicas[number].startable():
            job, ends = self._replicas[number].start(now)
            self._at(job.arrival.at + job.first_byte, partial(self._doors[job.gateway].told, job))
            self._at(ends, partial(self._end, job))

    def _end(self, job: Job, now: float) -> None:
        self._replicas[job.replica].end(job)
        self._doors[job.gateway].own[job.replica] -= 1
        self.outcome.jobs.append(job)
        self._start(job.replica, now)
