"""Which tokens of which sequences the next step computes, and what its outcome changes.

Continuous batching with chunked prefill, prefix reuse and preemption by recompute. Integers only, and deterministic:
no clock, no random number, no order of a set. Every rank runs its own scheduler on the same requests and tokens;
`state_hash` is what they compare.
"""

import logging
from collections import deque
from collections.abc import Iterable

from ryzanstein_worker.engine.admission import Limits, refusal
from ryzanstein_worker.engine.blocks import BlockHash, BlockPool, next_hash, root_hash
from ryzanstein_worker.engine.request import AddRequest, FinishReason, finish_reason
from ryzanstein_worker.engine.sequence import Counters, Progress, Sequence, Slice, Step

logger = logging.getLogger(__name__)

CHECK_FAILED = "This request could not be checked."
SAMPLING_FAILED = "The next token could not be chosen for this request."


class Scheduler:
    """First come, first served. A sequence is admitted when blocks for all its known tokens are free."""

    def __init__(self, limits: Limits, *, enable_prefix_caching: bool = True) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.num_kv_blocks, enable_caching=enable_prefix_caching)
        self.counters = Counters()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.state_hash = 0
        self._by_id: dict[str, Sequence] = {}
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the blocks that requests hold, 0 to 1."""
        return 1.0 - self.pool.num_free / self.limits.num_kv_blocks

    def add(self, request: AddRequest) -> Progress | None:
        """Queue a request. A refused one comes back as finished, with its sentence."""
        token_ids = [*request.prompt_token_ids, *request.output_token_ids]
        sequence = Sequence(request, self._arrivals, token_ids, hashes=[root_hash(request.cache_salt)])
        self._arrivals += 1
        sentence = self._refusal(request)
        self._note(1, sequence.num_prompt, len(token_ids), sentence is None, *token_ids)
        if sentence is not None:
            return Progress(sequence, finish_reason="error", error=sentence)
        self._by_id[request.request_id] = sequence
        self.waiting.append(sequence)
        return None

    def abort(self, request_id: str) -> Progress | None:
        """Forget a request and free its blocks. None if it is unknown or finished."""
        sequence = self._by_id.get(request_id)
        if sequence is None:
            return None
        self._remove(sequence)
        self._note(2, sequence.number)
        return Progress(sequence, finish_reason="abort")

    def fail(self, sequence: Sequence, sentence: str) -> Progress:
        """End one request because its part of a step failed."""
        self._remove(sequence)
        self._note(3, sequence.number)
        return Progress(sequence, finish_reason="error", error=sentence)

    def schedule(self) -> Step | None:
        """The next step, with blocks taken for all its tokens; None when there is nothing to do."""
        budget = self.limits.max_num_batched_tokens
        decodes, preempted = self._schedule_decodes()
        budget -= len(decodes)
        prefills: list[Slice] = []
        for sequence in self.running:
            if budget and len(sequence.token_ids) - sequence.num_computed > 1:
                prefills.append(self._chunk(sequence, budget))
                budget -= prefills[-1].count
        while budget and not preempted and self._admit():
            prefills.append(self._chunk(self.running[-1], budget))
            budget -= prefills[-1].count
        slices = (*decodes, *prefills)
        for part in slices:
            self._note(part.sequence.number, part.start, part.count)
        return Step(slices) if slices else None

    def advance(self, step: Step, token_ids: list[int | None]) -> list[Progress]:
        """Book a step that was computed. `token_ids` are those of `step.sampling`, in order; None fails that one."""
        tokens = iter(token_ids)
        progress: list[Progress] = []
        for part in step.slices:
            sequence, samples = part.sequence, part.samples
            sequence.num_computed = part.start + part.count
            self._publish(sequence)
            if samples:
                progress.append(self._append(sequence, next(tokens)))
        assert not list(tokens), "more tokens than sequences that sample"
        for item in progress:
            if item.finish_reason is not None:
                self._remove(item.sequence)
        self.counters.steps += 1
        return progress

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books agree: no block is leaked, none is used by two that may write it."""
        self.pool.check_integrity(sequence.block_ids for sequence in (*self.running, *self.waiting))
        members = [*self.running, *self.waiting]
        assert {s.number for s in members} == {s.number for s in self._by_id.values()}
        assert len(members) == len(self._by_id)
        assert len(self.running) <= self.limits.max_num_seqs
        writable: set[int] = set()
        for sequence in members:
            blocks = sequence.block_ids[sequence.num_computed // self.limits.block_size :]
            assert writable.isdisjoint(blocks), "two sequences may write one block"
            writable.update(blocks)
            assert sequence.num_computed <= len(sequence.block_ids) * self.limits.block_size
        for sequence in self.waiting:
            assert not sequence.block_ids, "a waiting sequence holds blocks"
            assert sequence.num_computed == 0, "a waiting sequence has computed tokens"

    def _refusal(self, request: AddRequest) -> str | None:
        if request.request_id in self._by_id:
            return "A request with this id is running already."
        try:
            return refusal(request, self.limits)
        except Exception:  # whatever is wrong with it, it is wrong on every rank alike, and with this request alone
            logger.exception("a request could not be checked")
            return CHECK_FAILED

    def _schedule_decodes(self) -> tuple[list[Slice], bool]:
        """One token of every sequence whose prompt is done, oldest first; the newest make room for the oldest."""
        decodes: list[Slice] = []
        preempted = False
        for sequence in list(self.running):
            if not sequence.block_ids or len(sequence.token_ids) - sequence.num_computed != 1:
                continue
            short = self._blocks_for(len(sequence.token_ids)) - len(sequence.block_ids)
            while short > self.pool.num_free and sequence.block_ids:
                self._preempt(self.running[-1])
                preempted = True
            if sequence.block_ids:
                sequence.block_ids += self.pool.take(short)
                decodes.append(Slice(sequence, sequence.num_computed, 1))
        return decodes, preempted

    def _admit(self) -> bool:
        """Move the first waiting sequence to the running ones, if there is a place and blocks for all its tokens."""
        if not self.waiting or len(self.running) >= self.limits.max_num_seqs:
            return False
        sequence = self.waiting[0]
        cached = self.pool.find(self._prompt_hashes(sequence))
        missing = self._blocks_for(len(sequence.token_ids)) - len(cached)
        if missing + self.pool.count_free(cached) > self.pool.num_free:
            return False
        self.pool.hold(cached)
        sequence.block_ids = cached + self.pool.take(missing)
        sequence.num_computed = len(cached) * self.limits.block_size
        sequence.num_published = len(cached)
        if sequence.num_cached_tokens is None:  # a recompute after a preemption is not the tenant's hit
            sequence.num_cached_tokens = sequence.num_computed
            self.counters.prefix_queries += len(sequence.token_ids)
            self.counters.prefix_hits += sequence.num_computed
        self.running.append(self.waiting.popleft())
        self._note(4, sequence.number, *sequence.block_ids)
        return True

    def _chunk(self, sequence: Sequence, budget: int) -> Slice:
        return Slice(sequence, sequence.num_computed, min(budget, len(sequence.token_ids) - sequence.num_computed))

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue without blocks: its tokens are kept, their keys and values computed anew."""
        self.running.remove(sequence)
        self._free(sequence)
        self.waiting.appendleft(sequence)
        self.counters.preemptions += 1
        self._note(5, sequence.number)

    def _remove(self, sequence: Sequence) -> None:
        del self._by_id[sequence.request.request_id]
        queue: list[Sequence] | deque[Sequence] = self.running if sequence.block_ids else self.waiting
        queue.remove(sequence)
        self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed = sequence.num_published = 0

    def _publish(self, sequence: Sequence) -> None:
        """Offer the blocks that the step filled to the prefix cache."""
        full = sequence.num_computed // self.limits.block_size
        self._extend_hashes(sequence, full)
        for index in range(sequence.num_published, full):
            self.pool.publish(sequence.block_ids[index], sequence.hashes[index + 1])
        sequence.num_published = full

    def _prompt_hashes(self, sequence: Sequence) -> Iterable[BlockHash]:
        """Hashes of the full blocks before the last token: that one is always computed, its logits are wanted."""
        full = (len(sequence.token_ids) - 1) // self.limits.block_size
        self._extend_hashes(sequence, full)
        return sequence.hashes[1 : full + 1]

    def _extend_hashes(self, sequence: Sequence, full: int) -> None:
        size = self.limits.block_size
        for index in range(len(sequence.hashes) - 1, full):
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            sequence.hashes.append(next_hash(sequence.hashes[-1], tokens))

    def _append(self, sequence: Sequence, token_id: int | None) -> Progress:
        if token_id is None:
            self._note(6, sequence.number)
            return Progress(sequence, finish_reason="error", error=SAMPLING_FAILED)
        sequence.token_ids.append(token_id)
        self._note(7, sequence.number, token_id)
        return Progress(sequence, token_id, self._finish_reason(sequence))

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        full: FinishReason | None = "length" if len(sequence.token_ids) >= self.limits.max_model_len else None
        return finish_reason(sequence.request.sampling, sequence.num_output, sequence.token_ids[-1]) or full

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.limits.block_size)

    def _note(self, *event: int) -> None:
        # A tuple of ints hashes alike in every process (only str and bytes are salted), and costs no bytes to build.
        self.state_hash = hash((self.state_hash, *event))
