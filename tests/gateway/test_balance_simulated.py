"""The policies compared on the same arrivals, with what gateways know a second old: the promises of docs/routing.md.

Simulated time and fixed seeds: every number here is the same on every machine.
"""

from dataclasses import replace
from functools import cache

import pytest

from routing_arrivals import mixed, steady
from routing_replica import Replica
from routing_scenarios import SCENARIOS, Scenario
from routing_simulator import Gateway, Outcome, simulate
from ryzanstein_gateway.balance import Choice, Policy, Why

BY_TITLE = {scenario.title: scenario for scenario in SCENARIOS}


@cache
def outcome(title: str, policy: Policy) -> Outcome:
    """One scenario under one policy."""
    return BY_TITLE[title].run(policy)


def fleet(count: int) -> list[Replica]:
    """Equal replicas."""
    return [Replica() for _ in range(count)]


def test_a_run_is_the_same_each_time_and_answers_every_request_once() -> None:
    arrivals = mixed(12, 30)
    first, second = (simulate(arrivals, Policy.PREFIX_AWARE, fleet(4)) for _ in range(2))
    assert sorted(job.arrival.at for job in first.jobs) == [one.at for one in arrivals]
    assert [(job.replica, job.wait) for job in first.jobs] == [(job.replica, job.wait) for job in second.jobs]


@pytest.mark.parametrize("title", ["Poisson", "bursts", "a day"])
@pytest.mark.parametrize("policy", Policy)
def test_equal_replicas_get_equal_shares_within_five_percent(title: str, policy: Policy) -> None:
    assert len(outcome(title, policy).jobs) > 1500
    assert outcome(title, policy).imbalance() < 0.05


@pytest.mark.parametrize("title", ["bursts", "a day"])
def test_adaptive_costs_nothing_where_turns_are_ideal(title: str) -> None:
    assert outcome(title, Policy.ADAPTIVE).wait(99) < outcome(title, Policy.ROUND_ROBIN).wait(99) + 0.2


@pytest.mark.parametrize("seed", [2, 12])
def test_adaptive_waits_half_as_long_as_turns_where_lengths_differ(seed: int) -> None:
    arrivals = mixed(12, 120, seed)
    adaptive, turns = (simulate(arrivals, policy, fleet(4)) for policy in (Policy.ADAPTIVE, Policy.ROUND_ROBIN))
    assert adaptive.wait(99) < 0.5 * turns.wait(99)
    assert adaptive.peak() < turns.peak()


def by_old_numbers(gateway: Gateway, pieces: tuple[int, ...], down: frozenset[int], now: float) -> Choice:
    """What must not be done: everybody to the replica that was idlest when it was last asked."""
    pages = gateway.pages
    best = min(pages, key=lambda number: pages[number][1].running + pages[number][1].waiting + gateway.own[number]
               - pages[number][1].in_flight)  # fmt: skip
    return Choice(gateway.hosts[best], Why.LOAD)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("gateways", [3, 8])
def test_gateways_that_hear_of_each_other_a_second_late_do_not_play_ping_pong(count: int, gateways: int) -> None:
    arrivals = steady(5.5 * count, 80)
    adaptive = simulate(arrivals, Policy.ADAPTIVE, fleet(count), gateways=gateways)
    turns = simulate(arrivals, Policy.ROUND_ROBIN, fleet(count), gateways=gateways)
    herd = simulate(arrivals, Policy.ADAPTIVE, fleet(count), gateways=gateways, pick=by_old_numbers)
    assert adaptive.swing() < 0.6 * herd.swing()
    assert adaptive.swing() < 1.6 * turns.swing()
    assert adaptive.imbalance() < 0.05


@pytest.mark.parametrize("policy", [Policy.ADAPTIVE, Policy.PREFIX_AWARE])
def test_a_replica_at_a_third_of_the_speed_gets_less_than_half_its_share(policy: Policy) -> None:
    title = "one replica at a third of the speed"
    found = outcome(title, policy)
    assert 0 < found.counts()[0] < 0.5 * len(found.jobs) / 4
    assert found.first_byte(99) < 0.1 * outcome(title, Policy.ROUND_ROBIN).first_byte(99)


@pytest.mark.parametrize(("gateways", "gain"), [(1, 1.6), (3, 1.25)])
def test_prefix_aware_finds_far_more_cached_and_piles_nothing_up(gateways: int, gain: float) -> None:
    scenario: Scenario = replace(BY_TITLE["conversations"], gateways=gateways)
    aware, turns = scenario.run(Policy.PREFIX_AWARE), scenario.run(Policy.ROUND_ROBIN)
    assert aware.hit_rate() > gain * turns.hit_rate()
    assert aware.first_byte(50) < 0.7 * turns.first_byte(50)
    assert aware.peak() < 1.5
    assert aware.wait(99) < turns.wait(99) + 0.5


def test_prefix_aware_is_adaptive_where_nobody_shares_anything() -> None:
    assert outcome("long and short", Policy.PREFIX_AWARE).wait(99) < 0.5 * outcome(
        "long and short", Policy.ROUND_ROBIN
    ).wait(99)


@pytest.mark.parametrize("policy", Policy)
def test_a_replica_that_is_out_gets_nothing_and_its_share_again_when_it_is_back(policy: Policy) -> None:
    def down(now: float) -> frozenset[int]:
        return frozenset({2}) if 30 <= now < 60 else frozenset()

    found = simulate(steady(12, 120), policy, fleet(4), down=down)
    counts = [
        sum(job.replica == 2 for job in found.jobs if begin <= job.arrival.at < end)
        for begin, end in ((0, 30), (30, 60), (60, 90), (90, 120))
    ]
    assert counts[1] == 0
    assert counts[0] * 0.7 < counts[3] < counts[0] * 1.4
    assert counts[2] < counts[0] * 1.6


@pytest.mark.parametrize("policy", Policy)
def test_when_all_are_out_requests_go_round_and_none_is_lost(policy: Policy) -> None:
    arrivals = steady(12, 60)
    found = simulate(arrivals, policy, fleet(4), down=lambda _: frozenset(range(4)))
    assert found.whys == {Why.FAIL_OPEN: len(arrivals)}
    assert found.imbalance() < 0.05
