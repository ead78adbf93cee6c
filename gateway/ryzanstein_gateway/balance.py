"""Which replica takes the next request: RoundRobin, Adaptive or PrefixAware.

Pure functions over one snapshot: no clock, no I/O, nothing remembered between calls, and randomness comes in as a
draw. What the policies do and why is told in docs/routing.md; tests/support/routing_simulator.py compares them.

Knows counts and shares; knows nothing of HTTP, of bodies, or of how the numbers were got.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low
from typing import Final

import msgspec

FRESH_SECONDS: Final = 5.0
"""Older than this, what a replica said about itself is no longer believed."""
LOAD_BOUND: Final = 1.5
"""PrefixAware sends nothing to a replica with more than this times the mean number of requests (and one more)."""
LAG_RATIO: Final = 2.0
"""A replica answers slowly when its first byte takes this times the median of all. Below it, the difference may come
from the prompts alone."""
LAG_CEILING: Final = 8.0
MOST_GATEWAYS: Final = 16.0


class Policy(StrEnum):
    """`spec.routing.policy` of an InferenceService."""

    ROUND_ROBIN = "RoundRobin"
    ADAPTIVE = "Adaptive"
    PREFIX_AWARE = "PrefixAware"

    @classmethod
    def of(cls, word: str) -> "Policy":
        """The policy of this name; Adaptive for a name that this version does not know."""
        return _POLICIES.get(word, cls.ADAPTIVE)


_POLICIES: Final[Mapping[str, Policy]] = {policy.value: policy for policy in Policy}


class Why(StrEnum):
    """What a choice was made by; a label of the metric `ryzanstein_gateway_routing_choices`."""

    ONLY = "only"
    """There was no other."""
    TURN = "turn"
    """It was its turn, and no reason stood against it."""
    LOAD = "load"
    """It was better off than the one whose turn it was."""
    PREFIX = "prefix"
    """It has served the longest part of this prompt's beginning."""
    SPILLED = "spilled"
    """Another has served more of the prompt's beginning, but has too much to do."""
    FAIL_OPEN = "fail_open"
    """Nothing good is known of any: one after the other, because a refusal is sure to fail the request."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica. `host` is an IP address as it stands in a URL; `leaving`: it terminates but still answers."""

    host: str
    pod: str = ""
    leaving: bool = False


class Load(msgspec.Struct, frozen=True):
    """What a replica said of itself (contract.HEALTH_STATUS), and what was measured of it from here."""

    running: int = 0
    """Requests in its batch, whoever sent them."""
    waiting: int = 0
    """Requests in its queue, whoever sent them."""
    kv_cache_usage: float = 0.0
    """0 to 1: share of the KV blocks that requests hold."""
    max_num_seqs: int = 0
    """Most requests in its batch; 0 where it did not say."""
    in_flight: int = 0
    """Requests that this process had in flight there when the above was asked: they are in `running` or `waiting`."""
    latency_seconds: float | None = None
    """Recent time to first byte, as latency.Latency gives it; None where too little is known."""
    age_seconds: float = 0.0
    """Since the replica said so."""
    beat_age: float = 0.0
    """Seconds since its slowest rank last moved, when it said so. Not used here: who lags has tier 1."""


class Candidate(msgspec.Struct, frozen=True):
    """A replica that may be chosen. `in_flight`: requests of this process there now; `load` None: it says nothing.

    `tier` 0 is sound; 1 is shunned, has its breaker open, was ejected or lags; 2 is leaving.
    """

    endpoint: Endpoint
    in_flight: int = 0
    load: Load | None = None
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt. `key` stands for its first piece; `held`: pieces lately served, by host: prefix.py."""

    key: int
    held: Mapping[str, int]


class Choice(msgspec.Struct, frozen=True):
    """Where to, and what decided it."""

    endpoint: Endpoint
    why: Why


def choose(
    candidates: Sequence[Candidate], policy: Policy, *, turn: int, draw: float, prefix: Prefix | None = None
) -> Choice | None:
    """The replica to send to; None if there is no candidate.

    `turn` grows by one with each request of this model, so that turns go round; `draw` is uniform in [0, 1). Only the
    best tier that anyone is in counts. In a tier other than 0 it goes round whatever the policy: what is known speaks
    against every one, so no knowledge is left to choose by.
    """
    if not candidates:
        return None
    best = min(candidate.tier for candidate in candidates)
    able = [candidate for candidate in candidates if candidate.tier == best]
    if len(able) == 1:
        return Choice(able[0].endpoint, Why.ONLY if best == 0 else Why.FAIL_OPEN)
    if best > 0 or policy is Policy.ROUND_ROBIN:
        return Choice(able[turn % len(able)].endpoint, Why.TURN if best == 0 else Why.FAIL_OPEN)
    view = _view(able)
    if policy is Policy.PREFIX_AWARE and prefix is not None:
        return _by_prefix(view, prefix, turn, draw)
    return _by_load(view, range(len(able)), turn, draw)


@dataclass(frozen=True, slots=True)
class _View:
    """The candidates with the numbers that are compared, one of each a candidate."""

    able: Sequence[Candidate]
    depths: Sequence[float]
    """Requests there now, as well as can be told."""
    scores: Sequence[float | None]
    """What one more request would find: the less the better. None where the replica has not said lately."""

    def better(self, other: int, one: int) -> bool:
        """Whether `other` would serve a request sooner than `one`, by what is known of both."""
        mine, theirs = self.scores[one], self.scores[other]
        if mine is None or theirs is None:
            return self.able[other].in_flight < self.able[one].in_flight
        return theirs < mine


def _view(able: Sequence[Candidate]) -> _View:
    loads = [_fresh(candidate) for candidate in able]
    known = [load for load in loads if load is not None]
    gateways, usual = _gateways(known), _usual_latency(known)
    depths: list[float] = []
    scores: list[float | None] = []
    for candidate, load in zip(able, loads, strict=True):
        depth = float(candidate.in_flight) if load is None else _depth(candidate, load, gateways)
        depths.append(depth)
        scores.append(None if load is None else _share(load, depth) * _lag(load, usual))
    return _View(able, depths, scores)


def _fresh(candidate: Candidate) -> Load | None:
    load = candidate.load
    return load if load is not None and load.age_seconds <= FRESH_SECONDS else None


def _gateways(loads: Sequence[Load]) -> float:
    """How many gateways like this one the replicas serve: all requests there by those that are from here."""
    own = sum(load.in_flight for load in loads)
    return min(MOST_GATEWAYS, max(1.0, sum(load.running + load.waiting for load in loads) / max(1, own)))


def _depth(candidate: Candidate, load: Load, gateways: float) -> float:
    """Requests at a replica now: what it said, and what has changed since.

    The other gateways see the same numbers and choose as this one does, so what this one has sent since then is
    taken times their number. Without that, all would run to the idlest replica until they hear of each other.
    """
    since = candidate.in_flight - load.in_flight
    return max(float(candidate.in_flight), load.running + load.waiting + gateways * since)


def _share(load: Load, depth: float) -> float:
    """How full the replica is of what it runs out of first: places in the batch, or KV blocks.

    Requests beyond what it reported are taken to hold as many blocks as the others there (dominant resource share:
    Ghodsi et al., NSDI 2011).
    """
    places = (depth + 1) / (load.max_num_seqs or 1)
    return max(places, load.kv_cache_usage * max(1.0, depth / max(1, load.running)))


def _usual_latency(loads: Sequence[Load]) -> float:
    known = [load.latency_seconds for load in loads if load.latency_seconds is not None]
    return median_low(known) if known else 0.0


def _lag(load: Load, usual: float) -> float:
    """1 for a replica that answers in the usual time; for a slower one the root of how much slower it is. The root,
    because a slow replica also has more requests there than the others, which has been counted."""
    if load.latency_seconds is None or usual <= 0 or load.latency_seconds < LAG_RATIO * usual:
        return 1.0
    return math.sqrt(min(LAG_CEILING, load.latency_seconds / usual))


def _by_load(view: _View, among: Sequence[int], turn: int, draw: float) -> Choice:
    """Power of two choices (Mitzenmacher, 2001): the one whose turn it is, unless another, drawn, is better off.

    Two and not all: the best of all by numbers that are a second old is where everyone else goes as well. The turn
    and not a second draw: when all are alike, each gets the same number of requests.
    """
    first = turn % len(among)
    if len(among) == 1:
        return Choice(view.able[among[0]].endpoint, Why.ONLY)
    second = (first + 1 + math.floor(draw * (len(among) - 1))) % len(among)
    own, other = among[first], among[second]
    if view.better(other, own):
        return Choice(view.able[other].endpoint, Why.LOAD)
    return Choice(view.able[own].endpoint, Why.TURN)


def _by_prefix(view: _View, prefix: Prefix, turn: int, draw: float) -> Choice:
    """To who holds most of the prompt's beginning, among those below the bound (consistent hashing with bounded
    loads: Mirrokni, Thorup, Zadimoghaddam, 2018). Where none holds any: by load between two that the prefix names,
    the same two for every gateway."""
    bound = math.ceil(LOAD_BOUND * (sum(view.depths) + 1) / len(view.able))
    roomy = [index for index, depth in enumerate(view.depths) if depth < bound]
    held = [prefix.held.get(candidate.endpoint.host, 0) for candidate in view.able]
    most = max(held[index] for index in roomy)
    if most == 0:
        pair = sorted(roomy, key=lambda index: _rank(prefix.key, view.able[index].endpoint.host))[:2]
        choice = _by_load(view, pair, turn, draw)
    else:
        choice = _by_load(view, [index for index in roomy if held[index] == most], turn, draw)
        choice = Choice(choice.endpoint, Why.PREFIX)
    return choice if most == max(held) else Choice(choice.endpoint, Why.SPILLED)


def _rank(key: int, host: str) -> bytes:
    """Rendezvous hashing (Thaler, Ravishankar, 1998): each key has an order of hosts that others' coming and going
    does not change."""
    return hashlib.blake2b(host.encode(), digest_size=8, key=key.to_bytes(8)).digest()
