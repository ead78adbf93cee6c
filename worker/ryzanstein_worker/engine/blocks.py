"""The pool of KV blocks and the prefix cache over them. Integers and hashes only: no tensor, no request, no clock.

A block is held (its reference count is above 0) or free. A full block whose tokens are computed may be cached under
the hash of everything up to its end; it keeps its contents while it is free, until the pool runs out of others and
takes the least recently freed. Same calls, same answers: every rank runs its own pool and they stay equal.
"""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence

BlockHash = bytes


def root_hash(salt: bytes) -> BlockHash:
    """Where a tenant's chains start: under another salt no block has the same hash."""
    return hashlib.sha256(b"ryzanstein prefix cache\0" + salt).digest()


def next_hash(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    """The hash of a full block that follows `parent`: SHA-256, so that nobody can make two prefixes collide."""
    return hashlib.sha256(parent + struct.pack(f"<{len(token_ids)}q", *token_ids)).digest()


class BlockPool:
    """`num_blocks` blocks, numbered from 0. Misuse (freeing what is free) is a bug and raises AssertionError."""

    def __init__(self, num_blocks: int, *, enable_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self._enable_caching = enable_caching
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # next to be taken first
        self._hash_of: dict[int, BlockHash] = {}
        self._block_of: dict[BlockHash, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be taken; some of them may be cached."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that a later prompt can find by hash, held or free."""
        return len(self._block_of)

    def find(self, hashes: Iterable[BlockHash]) -> list[int]:
        """The cached blocks of the longest known prefix of the chain. Takes nothing."""
        found: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these would leave the free list if they were held."""
        return sum(block in self._free for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Take one more reference on blocks that `find` gave."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """Take `count` free blocks for new contents; whatever they cached is forgotten. Needs count <= num_free."""
        assert count <= self.num_free, f"{count} blocks asked, {self.num_free} free"
        taken: list[int] = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give one reference back on each. A sequence's last block is freed first, so that prefixes live longest."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} is free already"
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                # What nobody can find again is taken before what a prompt may still hit.
                self._free.move_to_end(block, last=block in self._hash_of)

    def publish(self, block: int, block_hash: BlockHash) -> None:
        """The held block's tokens are computed: let later prompts find it. The first block under a hash stays."""
        assert self._references[block] > 0, f"block {block} is not held"
        if self._enable_caching and block_hash not in self._block_of and block not in self._hash_of:
            self._hash_of[block] = block_hash
            self._block_of[block_hash] = block

    def check_integrity(self, held: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the pool's books agree with each other and with `held`, every holder's blocks."""
        expected = [0] * self.num_blocks
        for blocks in held:
            assert len(set(blocks)) == len(blocks), f"one holder has a block twice: {blocks}"
            for block in blocks:
                expected[block] += 1
        assert self._references == expected, "reference counts differ from the holders"
        free = {block for block, references in enumerate(expected) if references == 0}
        assert set(self._free) == free, "the free list differs from the unreferenced blocks"
        assert {block: h for h, block in self._block_of.items()} == self._hash_of, "the two cache indexes differ"
        assert self._enable_caching or not self._block_of, "caching is off"

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]
