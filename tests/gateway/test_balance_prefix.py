"""The memory of prefixes, and the mean of latencies: what PrefixAware and Adaptive know beside the replicas' words."""

import json
import tracemalloc

import pytest

from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.latency import FORGET_SECONDS, LEAST_SAMPLES, Latency
from ryzanstein_gateway.prefix import CAPACITY, MOST_BYTES, PIECE_BYTES, PrefixMemory, piece_keys
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.vitals import Status

SYSTEM = {"role": "system", "content": "You are helpful. " * 100}


def raw(*turns: str) -> bytes:
    """`messages` of a conversation as a client writes it."""
    spoken = [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return json.dumps([SYSTEM, *spoken]).encode()


def test_the_next_turn_of_a_conversation_begins_with_the_keys_of_the_last() -> None:
    first = piece_keys(raw("a" * 900), scope="m")
    second = piece_keys(raw("a" * 900, "b" * 900, "c" * 900), scope="m")
    assert len(first) == len(raw("a" * 900)) // PIECE_BYTES
    assert second[: len(first)] == first
    assert len(second) > len(first)


def test_a_shared_system_prompt_is_shared_and_what_follows_is_not() -> None:
    one, other = piece_keys(raw("a" * 2000), scope="m"), piece_keys(raw("b" * 2000), scope="m")
    shared = len(json.dumps(SYSTEM)) // PIECE_BYTES
    assert one[:shared] == other[:shared]
    assert not set(one[shared + 1 :]) & set(other[shared + 1 :])


def test_tenants_and_models_share_no_key() -> None:
    assert not set(piece_keys(raw("a" * 2000), scope="m one")) & set(piece_keys(raw("a" * 2000), scope="m two"))


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, 0),
        (PIECE_BYTES - 1, 0),
        (PIECE_BYTES, 1),
        (3 * PIECE_BYTES + 7, 3),
        (MOST_BYTES + 1, MOST_BYTES // PIECE_BYTES),
    ],
)
def test_only_whole_pieces_count_and_no_more_than_the_most(size: int, pieces: int) -> None:
    assert len(piece_keys(b"x" * size, scope="m")) == pieces


def test_pieces_are_found_where_they_were_served_and_only_from_the_beginning_on() -> None:
    memory = PrefixMemory()
    memory.remember("a", [1, 2, 3])
    memory.remember("b", [1, 2])
    memory.remember("c", [9, 2, 3])
    found = memory.look_up([1, 2, 3, 4], ["a", "b", "c", "d"])
    assert found is not None
    assert (found.key, found.held) == (1, {"a": 3, "b": 2})
    assert memory.look_up([], ["a"]) is None


def test_a_replica_that_was_started_anew_has_served_nothing() -> None:
    memory = PrefixMemory()
    memory.remember("a", [1, 2, 3])
    memory.forget("a")
    found = memory.look_up([1, 2, 3], ["a"])
    assert found is not None
    assert not found.held
    memory.remember("a", [1])
    found = memory.look_up([1, 2, 3], ["a"])
    assert found is not None
    assert found.held == {"a": 1}


def test_what_was_not_served_for_longest_goes_first_and_a_beginning_last() -> None:
    memory = PrefixMemory(capacity=4)
    memory.remember("a", [1, 2])
    memory.remember("a", [7, 8])
    memory.remember("a", [1, 2])
    memory.remember("b", [5])
    assert len(memory) == 4
    assert [bool(found and found.held) for key in (1, 7, 5) if (found := memory.look_up([key], ["a", "b"]))] == [
        True
    ] * 3
    found = memory.look_up([7, 8], ["a"])
    assert found is not None
    assert found.held == {"a": 1}


def test_memory_stays_within_its_bound_whatever_is_asked() -> None:
    tracemalloc.start()
    try:
        memory = PrefixMemory()
        for number in range(CAPACITY // 14):
            memory.remember(f"10.0.{number % 7}.1", [number * 100 + piece for piece in range(16)])
        assert len(memory) == CAPACITY
        assert tracemalloc.get_traced_memory()[0] < 24 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_latency_follows_what_is_new_and_is_forgotten_when_nothing_is() -> None:
    latency = Latency()
    assert latency.recent(0.0) is None
    for second in range(LEAST_SAMPLES - 1):
        latency.observe(1.0, float(second))
    assert latency.recent(4.0) is None
    latency.observe(1.0, 5.0)
    assert latency.recent(5.0) == 1.0
    for second in range(20, 60):
        latency.observe(3.0, float(second))
    assert latency.recent(60.0) == 3.0
    assert latency.recent(60.0 + FORGET_SECONDS) is None
    latency.observe(0.5, 200.0)
    assert latency.recent(200.0) is None


def test_a_few_long_prompts_do_not_make_a_replica_look_slow() -> None:
    latency = Latency()
    for step in range(30):
        latency.observe(9.0 if step % 5 == 0 else 0.1, step * 0.1)
    assert latency.recent(3.0) == 0.1


def test_the_time_in_a_replica_s_queue_is_not_taken_for_slowness() -> None:
    now = [0.0]
    one = ReplicaState(Endpoint("10.0.0.1"), ("ns", "s"), 8001, lambda: now[0])
    for second, (waiting, took) in enumerate([(0, 0.2)] * LEAST_SAMPLES + [(4, 9.0)] * 20):
        now[0] = float(second)
        one.told(Status(waiting=waiting, max_num_seqs=16))
        one.first_byte(took)
    load = one.candidate(now[0]).load
    assert load is not None
    assert load.latency_seconds == 0.2
