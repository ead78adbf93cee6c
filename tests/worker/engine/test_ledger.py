"""What a rank measures arrives at the memory's other end: in its bucket, in its unit, beside that of other ranks."""

import os
from collections.abc import Iterator

import pytest

from engine_requests import add_request
from ryzanstein_worker.engine.ledger import STEP_SECONDS, STEP_TOKENS, Ledger
from ryzanstein_worker.engine.request import StepPart
from ryzanstein_worker.engine.sequence import Sequence, Slice, Step
from ryzanstein_worker.engine.steps import MOST, StepLog


@pytest.fixture
def descriptor() -> Iterator[int]:
    fd = Ledger.create(3)
    yield fd
    os.close(fd)


def test_what_one_end_adds_up_the_other_reads_and_no_rank_writes_into_anothers_account(descriptor: int) -> None:
    account = Ledger(descriptor, 3).account(1)
    account.step("decode", 3_000_000, 5)
    account.step("decode", 4_000_000, 5)
    account.step("mixed", 20_000_000_000, 10**6)
    account.collective("all_reduce", 2_000)
    account.collective("all_reduce", 4_000)
    account.stage("weights", 1.5)
    ledger = Ledger(descriptor, 3)
    first, second, third = (ledger.account(rank).read(rank) for rank in range(3))
    decode, mixed = second.steps["decode"], second.steps["mixed"]
    assert (decode.count, decode.total) == (2, 0.007)
    assert decode.buckets[STEP_SECONDS.index(0.005)] == 2
    assert (mixed.buckets[-1], mixed.total) == (1, 20.0)
    assert (second.step_tokens.count, second.step_tokens.total) == (3, 10**6 + 10)
    assert (second.step_tokens.buckets[STEP_TOKENS.index(8)], second.step_tokens.buckets[-1]) == (2, 1)
    assert (second.collectives["all_reduce"].count, second.collectives["all_reduce"].seconds) == (2, 6e-6)
    assert second.load == {"weights": 1.5}
    for other in (first, third):
        assert other.step_tokens.count == other.collectives["all_reduce"].count == 0
        assert other.load == {}


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"), [(0, 0), (500_000, 0), (500_001, 1), (10**10, 13), (10**10 + 1, 14)]
)
def test_a_bound_belongs_to_its_bucket(descriptor: int, nanoseconds: int, bucket: int) -> None:
    account = Ledger(descriptor, 3).account(0)
    account.step("prefill", nanoseconds, 1)
    assert account.read(0).steps["prefill"].buckets[bucket] == 1


def test_the_steps_of_a_traced_request_are_kept_until_its_output_and_no_others() -> None:
    log = StepLog()
    traced, other = (Sequence(add_request([1, 2, 3]), number, [1, 2, 3], []) for number in range(2))
    step = Step((Slice(other, 0, 2), Slice(traced, 0, 3)))
    log.note(step, 1, 5, 10.0, 0.25)
    assert log.take(traced.request.request_id, last=False) == []
    log.expect(traced.request.request_id)
    log.note(step, 2, 5, 11.0, 0.5)
    log.note(Step((Slice(other, 2, 1),)), 3, 1, 12.0, 0.5)
    (part,) = log.take(traced.request.request_id, last=False)
    assert part == StepPart(2, requests=2, step_tokens=5, tokens=3, begin=11.0, seconds=0.5)
    for number in range(MOST + 10):
        log.note(step, number, 5, 13.0, 0.5)
    assert len(log.take(traced.request.request_id, last=True)) == MOST
    log.note(step, 200, 5, 14.0, 0.5)
    assert log.take(traced.request.request_id, last=False) == []
    assert log.take(other.request.request_id, last=True) == []
