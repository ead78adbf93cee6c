"""The choice of a replica, by table: tiers, turns, load, latency, prefixes."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryzanstein_gateway.balance import (
    FRESH_SECONDS,
    Candidate,
    Choice,
    Endpoint,
    Load,
    Policy,
    Prefix,
    Why,
    choose,
)
from ryzanstein_gateway.vitals import Status

A, B, C, D = (Endpoint(f"10.0.0.{number}") for number in range(1, 5))
LEAVING = Endpoint("10.0.0.9", leaving=True)
DRAWS = (0.0, 0.3, 0.6, 0.999999)


def picks(candidates: Sequence[Candidate], policy: Policy, prefix: Prefix | None = None) -> set[Endpoint]:
    """Every endpoint that some turn and some draw would choose."""
    return {made(candidates, policy, turn, draw, prefix).endpoint for turn in range(12) for draw in DRAWS}


def made(
    candidates: Sequence[Candidate], policy: Policy, turn: int = 0, draw: float = 0.0, prefix: Prefix | None = None
) -> Choice:
    """The choice; there must be one."""
    choice = choose(candidates, policy, turn=turn, draw=draw, prefix=prefix)
    assert choice is not None
    return choice


def busy(endpoint: Endpoint, running: int = 0, waiting: int = 0, **more: float | None) -> Candidate:
    """A sound candidate that has just told its load; 64 places in its batch."""
    said = {"max_num_seqs": 64, **more}
    return Candidate(endpoint, load=Load(running=running, waiting=waiting, **said))  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(
    ("candidates", "want"),
    [
        ([Candidate(A), Candidate(B, tier=1)], {A}),
        ([Candidate(A, in_flight=99), Candidate(B, tier=1)], {A}),
        ([Candidate(A, tier=1), Candidate(LEAVING, tier=2)], {A}),
        ([Candidate(A, tier=1), Candidate(B, tier=1), Candidate(LEAVING, tier=2)], {A, B}),
        ([Candidate(LEAVING, tier=2)], {LEAVING}),
        ([Candidate(A), Candidate(B), Candidate(C)], {A, B, C}),
    ],
)
def test_only_the_best_tier_is_chosen_from(policy: Policy, candidates: list[Candidate], want: set[Endpoint]) -> None:
    assert picks(candidates, policy, Prefix(7, {B.host: 3} if B in want else {})) <= want
    assert picks(candidates, policy) == want


def test_no_candidate_is_no_choice() -> None:
    assert choose([], Policy.ADAPTIVE, turn=0, draw=0.5) is None


@pytest.mark.parametrize("policy", Policy)
def test_where_all_are_bad_it_goes_round(policy: Policy) -> None:
    bad = [Candidate(A, 50, Load(running=50), tier=1), Candidate(B, tier=1), Candidate(C, tier=1)]
    chosen = [made(bad, policy, turn, prefix=Prefix(1, {A.host: 9})) for turn in range(6)]
    assert [choice.endpoint for choice in chosen] == [A, B, C, A, B, C]
    assert {choice.why for choice in chosen} == {Why.FAIL_OPEN}


def test_round_robin_goes_round_whatever_the_load() -> None:
    candidates = [busy(A, 60, 9), busy(B), busy(C)]
    assert [made(candidates, Policy.ROUND_ROBIN, turn).endpoint for turn in range(4)] == [A, B, C, A]


def test_adaptive_goes_round_while_all_are_alike() -> None:
    candidates = [busy(A, 2), busy(B, 2), busy(C, 2)]
    for draw in DRAWS:
        assert [made(candidates, Policy.ADAPTIVE, turn, draw).endpoint for turn in range(4)] == [A, B, C, A]


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (busy(A, 3), busy(B, 2)),
        (busy(A, 3, 1), busy(B, 3)),
        (busy(A, 0, 1), busy(B)),
        # Few requests, but they hold the KV cache: it is what runs out first.
        (busy(A, 4, kv_cache_usage=0.9), busy(B, 8, kv_cache_usage=0.3)),
        # As many requests in a batch with half the places.
        (busy(A, 8, max_num_seqs=16), busy(B, 12, max_num_seqs=64)),
        # As full, but its first byte takes four times the usual.
        (busy(A, 4, latency_seconds=2.0), busy(B, 4, latency_seconds=0.5)),
        # Sent since it spoke.
        (Candidate(A, 3, Load(max_num_seqs=64)), busy(B, 2)),
        # It says nothing (or said it too long ago): own requests are compared.
        (Candidate(A, 2), Candidate(B, 1, Load(running=50, max_num_seqs=64))),
        (Candidate(A, 2, Load(age_seconds=FRESH_SECONDS + 1)), Candidate(B, 1)),
    ],
)
def test_adaptive_prefers_the_better_of_two(worse: Candidate, better: Candidate) -> None:
    assert picks([worse, better], Policy.ADAPTIVE) == {better.endpoint}
    assert picks([better, worse], Policy.ADAPTIVE) == {better.endpoint}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (busy(A, latency_seconds=0.9), busy(B, latency_seconds=0.5)),  # the prompts' difference, perhaps
        (busy(A, latency_seconds=9.0), busy(B)),  # nothing to compare it with
        (Candidate(A), Candidate(B)),
        (Candidate(A, 1, Load(running=50, age_seconds=FRESH_SECONDS + 1)), Candidate(B, 1)),
    ],
)
def test_no_difference_is_made_of_what_is_not_known(one: Candidate, other: Candidate) -> None:
    assert picks([one, other], Policy.ADAPTIVE) == {one.endpoint, other.endpoint}


def test_a_request_counts_once_whether_it_was_reported_or_not() -> None:
    # A: 4 requests from here, all in what it said. B: 2 from here, none of them in what it said, and 1 of another.
    reported = Candidate(A, 4, Load(running=4, in_flight=4, max_num_seqs=64))
    unreported = Candidate(B, 2, Load(running=1, in_flight=0, max_num_seqs=64))
    assert picks([reported, unreported], Policy.ADAPTIVE) == {B}
    # The 4 have ended since: it is idle.
    ended = Candidate(A, 0, Load(running=4, in_flight=4, max_num_seqs=64))
    assert picks([ended, unreported], Policy.ADAPTIVE) == {A}


def test_what_other_gateways_have_sent_since_is_reckoned_with() -> None:
    # Half of what the replicas reported is from here: there is one more gateway, which has sent as many to A as we.
    behind = Candidate(A, 3, Load(running=2, in_flight=1, max_num_seqs=64))
    ahead = Candidate(B, 2, Load(running=5, in_flight=2, max_num_seqs=64))
    assert picks([behind, ahead], Policy.ADAPTIVE) == {B}
    alone = Candidate(A, 3, Load(running=1, in_flight=1, max_num_seqs=64))
    assert picks([alone, Candidate(B, 4, Load(running=4, in_flight=4, max_num_seqs=64))], Policy.ADAPTIVE) == {A}


def test_prefix_aware_goes_where_most_of_the_prompt_was_served() -> None:
    candidates = [busy(A, 2), busy(B, 2), busy(C, 2)]
    assert picks(candidates, Policy.PREFIX_AWARE, Prefix(1, {A.host: 1, C.host: 5})) == {C}
    assert picks(candidates, Policy.PREFIX_AWARE, Prefix(1, {A.host: 5, C.host: 5})) == {A, C}
    assert made(candidates, Policy.PREFIX_AWARE, prefix=Prefix(1, {C.host: 5})).why is Why.PREFIX


def test_a_prefix_does_not_pile_requests_onto_one_replica() -> None:
    full = [busy(A, 10), busy(B, 4), busy(C, 4)]
    assert A not in picks(full, Policy.PREFIX_AWARE, Prefix(1, {A.host: 5}))
    assert picks(full, Policy.PREFIX_AWARE, Prefix(1, {A.host: 5, B.host: 1})) == {B}
    assert made(full, Policy.PREFIX_AWARE, prefix=Prefix(1, {A.host: 5})).why is Why.SPILLED


def test_a_new_prefix_has_two_replicas_of_its_own_that_outlast_others_going() -> None:
    everyone = [busy(one) for one in (A, B, C, D)]
    homes = Counter[Endpoint]()
    for key in range(100):
        pair = picks(everyone, Policy.PREFIX_AWARE, Prefix(key, {}))
        homes.update(pair)
        assert len(pair) == 2
        rest = [one for one in everyone if one.endpoint in pair or one.endpoint in (A, B)]
        assert picks(rest, Policy.PREFIX_AWARE, Prefix(key, {})) == pair
    assert max(homes.values()) < 2 * min(homes.values())


def test_without_a_prefix_it_is_adaptive() -> None:
    candidates = [busy(A, 3), busy(B, 1), busy(C, 9)]
    for turn in range(6):
        for draw in DRAWS:
            assert made(candidates, Policy.PREFIX_AWARE, turn, draw) == made(candidates, Policy.ADAPTIVE, turn, draw)


def test_a_policy_of_a_newer_operator_is_taken_for_the_default() -> None:
    assert [Policy.of(policy.value) for policy in Policy] == list(Policy)
    assert Policy.of("CheapestElectricity") is Policy.ADAPTIVE


@pytest.mark.parametrize(
    "page",
    [
        b'{"running": ' + b"9" * 400 + b"}",
        b'{"waiting": -1}',
        b'{"max_num_seqs": -3}',
        b'{"max_num_seqs": 1000001}',
        b'{"kv_cache_usage": 1.1}',
        b'{"kv_cache_usage": -0.1}',
        b'{"beat_age": -1}',
        b'{"running": "3"}',
    ],
)
def test_a_page_that_cannot_be_is_no_page(page: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(page, type=Status)


COUNTS = st.integers(0, 1_000_000)
LOADS = st.builds(
    Load,
    running=COUNTS,
    waiting=COUNTS,
    kv_cache_usage=st.floats(0, 1),
    max_num_seqs=COUNTS,
    in_flight=COUNTS,
    latency_seconds=st.none() | st.floats(0, 1e9),
    age_seconds=st.floats(0, 1e9),
)


@settings(deadline=None, derandomize=True)
@given(
    several=st.lists(st.tuples(COUNTS, st.none() | LOADS, st.integers(0, 2)), min_size=1, max_size=5),
    policy=st.sampled_from(Policy),
    turn=st.integers(0, 2**63),
    draw=st.floats(0, 1, exclude_max=True),
    held=st.none() | st.dictionaries(st.integers(0, 5), st.integers(0, 64)),
)
def test_whatever_is_known_one_of_the_best_tier_is_chosen(
    several: list[tuple[int, Load | None, int]],
    policy: Policy,
    turn: int,
    draw: float,
    held: dict[int, int] | None,
) -> None:
    candidates = [
        Candidate(Endpoint(f"10.0.0.{number}"), in_flight, load, tier)
        for number, (in_flight, load, tier) in enumerate(several)
    ]
    prefix = None if held is None else Prefix(7, {f"10.0.0.{number}": pieces for number, pieces in held.items()})
    choice = made(candidates, policy, turn, draw, prefix)
    best = min(candidate.tier for candidate in candidates)
    assert choice.endpoint in {candidate.endpoint for candidate in candidates if candidate.tier == best}
    assert (choice.why is Why.FAIL_OPEN) == (best > 0)
