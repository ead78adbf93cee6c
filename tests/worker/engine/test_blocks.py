"""The block pool under every order of calls: no block is lost, none is handed out twice, the cache never lies."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ryzanstein_worker.engine.blocks import BlockPool, next_hash, root_hash

SIZE = 12


class PoolMachine(RuleBasedStateMachine):
    """Holders take, find, publish and release; `contents` is what each block truly holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SIZE)
        self.holders: list[list[int]] = []
        self.contents: dict[int, bytes] = {}

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        if count > self.pool.num_free:
            with pytest.raises(AssertionError):
                self.pool.take(count)
            return
        blocks = self.pool.take(count)
        assert not {b for holder in self.holders for b in holder} & set(blocks), "a held block was handed out"
        for block in blocks:
            self.contents.pop(block, None)
        self.holders.append(blocks)

    @rule(data=st.data(), chain=st.integers(0, 3), depth=st.integers(0, 3))
    def publish(self, data: st.DataObject, chain: int, depth: int) -> None:
        if not self.holders:
            return
        block = data.draw(st.sampled_from(data.draw(st.sampled_from(self.holders))))
        if block not in self.contents:
            self.contents[block] = _hashes(chain)[depth]
            self.pool.publish(block, self.contents[block])

    @rule(chain=st.integers(0, 3))
    def reuse(self, chain: int) -> None:
        found = self.pool.find(_hashes(chain))
        assert [self.contents[block] for block in found] == _hashes(chain)[: len(found)], "the cache gave a wrong block"
        if found:
            before = self.pool.num_free
            leaving = self.pool.count_free(found)
            self.pool.hold(found)
            assert self.pool.num_free == before - leaving
            self.holders.append(found)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.holders:
            self.pool.release(self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1))))

    @invariant()
    def books_agree(self) -> None:
        self.pool.check_integrity(self.holders)

    def teardown(self) -> None:
        for blocks in self.holders:
            self.pool.release(blocks)
        assert self.pool.num_free == SIZE


def _hashes(chain: int) -> list[bytes]:
    hashes = [root_hash(bytes([chain]))]
    for token in range(4):
        hashes.append(next_hash(hashes[-1], [chain, token]))
    return hashes[1:]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_least_recently_freed_cached_block_goes_first_and_uncached_ones_before_it() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2)
    pool.publish(first, b"first")
    pool.publish(second, b"second")
    pool.release([first])
    pool.release([second])
    plain = pool.take(2)  # the two that never held anything
    assert pool.find([b"first"]) == [first]
    pool.release(plain)
    assert set(pool.take(2)) == set(plain)
    assert pool.take(1) == [first]
    assert pool.find([b"first"]) == []
    assert pool.find([b"second"]) == [second]


def test_equal_tokens_under_another_salt_have_no_hash_in_common() -> None:
    ours, theirs = root_hash(b"a"), root_hash(b"b")
    assert next_hash(ours, [1, 2]) != next_hash(theirs, [1, 2])
    assert next_hash(ours, [1, 2]) == next_hash(root_hash(b"a"), [1, 2])


def test_a_pool_without_caching_finds_nothing() -> None:
    pool = BlockPool(2, enable_caching=False)
    pool.publish(pool.take(1)[0], b"x")
    assert pool.find([b"x"]) == []


def test_freeing_what_is_free_is_noticed() -> None:
    pool = BlockPool(2)
    blocks = pool.take(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="free already"):
        pool.release(blocks)
