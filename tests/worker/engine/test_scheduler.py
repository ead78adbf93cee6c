"""The scheduler against a model of the KV cache: whatever happens, each token sees exactly its own prefix."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine_requests import add_request, limits
from ryzanstein_worker.engine.request import AddRequest
from ryzanstein_worker.engine.scheduler import Scheduler
from ryzanstein_worker.engine.sequence import Progress, Slice, Step

BLOCK = 4


def expected_tokens(prompt: list[int], count: int) -> list[int]:
    """What the toy model below generates after `prompt`: the next token is a function of all tokens before it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(toy_token(tokens))
    return tokens[len(prompt) :]


def toy_token(tokens: list[int]) -> int:
    return hash(tuple(tokens)) % 97


class ToyCache:
    """A KV cache whose slots hold the prefix they were computed from, so that every misuse shows."""

    def __init__(self) -> None:
        self.slots: dict[tuple[int, int], tuple[int, ...]] = {}

    def run(self, step: Step) -> list[int]:
        for part in step.slices:
            self._write(part)
        for part in step.slices:
            self._check(part)
        return [toy_token(sequence.token_ids) for sequence in step.sampling]

    def _write(self, part: Slice) -> None:
        tokens = part.sequence.token_ids
        for position in range(part.start, part.start + part.count):
            self.slots[self._slot(part, position)] = tuple(tokens[: position + 1])

    def _check(self, part: Slice) -> None:
        tokens = part.sequence.token_ids
        for position in range(part.start + part.count):
            assert self.slots[self._slot(part, position)] == tuple(tokens[: position + 1]), "a foreign or stale slot"

    def _slot(self, part: Slice, position: int) -> tuple[int, int]:
        return part.sequence.block_ids[position // BLOCK], position % BLOCK


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, aborts and steps in any order, with few enough blocks that preemption is common."""

    def __init__(self) -> None:
        super().__init__()
        self.leader = Scheduler(limits(num_kv_blocks=12))
        self.follower = Scheduler(limits(num_kv_blocks=12))
        self.cache = ToyCache()
        self.requests: dict[str, AddRequest] = {}
        self.outputs: dict[str, list[int]] = {}
        self.pending: Step | None = None

    # Few distinct tokens and salts: prefixes are shared all the time.
    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=40),
        max_tokens=st.integers(1, 20),
        salt=st.sampled_from([b"", b"other"]),
    )
    def add(self, prompt: list[int], max_tokens: int, salt: bytes) -> None:
        request = add_request(prompt, salt=salt, max_tokens=max_tokens)
        self.requests[request.request_id] = request
        self.outputs[request.request_id] = []
        assert self.leader.add(request) is None
        assert self.follower.add(request) is None

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        del self.requests[request_id]
        progress = self.leader.abort(request_id)
        self.follower.abort(request_id)
        assert progress is not None
        assert progress.finish_reason == "abort"

    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        step, twin = self.leader.schedule(), self.follower.schedule()
        assert self.leader.state_hash == self.follower.state_hash, "two schedulers came to differ"
        if step is None or twin is None:
            assert step is twin
            assert not self.leader.has_work, "there is work and nothing is scheduled"
            return
        assert sum(part.count for part in step.slices) <= self.leader.limits.max_num_batched_tokens
        tokens: list[int | None] = [*self.cache.run(step)]
        self.follower.advance(twin, tokens)
        for progress in self.leader.advance(step, tokens):
            self.record(progress)

    def record(self, progress: Progress) -> None:
        request_id = progress.sequence.request.request_id
        assert progress.token_id is not None
        self.outputs[request_id].append(progress.token_id)
        if progress.finish_reason is not None:
            request = self.requests.pop(request_id)
            prompt, limit = request.prompt_token_ids, self.leader.limits.max_model_len
            count = min(request.sampling.max_tokens, limit - len(prompt))
            assert self.outputs[request_id] == expected_tokens(prompt, count)

    @invariant()
    def books_agree(self) -> None:
        self.leader.check_integrity()

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.requests:
                break
            self.step()
        assert not self.requests, "a request never ended"
        assert self.leader.kv_cache_usage == 0, "blocks were leaked"
        self.leader.check_integrity()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def _run(scheduler: Scheduler, cache: ToyCache) -> dict[str, list[int]]:
    """Step until nothing is left; each request's tokens."""
    outputs: dict[str, list[int]] = {}
    while (step := scheduler.schedule()) is not None:
        tokens: list[int | None] = [*cache.run(step)]
        for progress in scheduler.advance(step, tokens):
            assert progress.token_id is not None
            outputs.setdefault(progress.sequence.request.request_id, []).append(progress.token_id)
    return outputs


def test_decodes_come_first_and_a_long_prompt_is_cut_to_what_the_budget_leaves() -> None:
    scheduler = Scheduler(limits(max_num_batched_tokens=8))
    scheduler.add(add_request([1, 2, 3]))
    first = scheduler.schedule()
    assert first is not None
    scheduler.advance(first, [5])
    scheduler.add(add_request(list(range(20))))
    step = scheduler.schedule()
    assert step is not None
    assert [(part.start, part.count) for part in step.slices] == [(3, 1), (0, 7)]
    assert [part.samples for part in step.slices] == [True, False]


def test_the_newest_is_preempted_when_blocks_run_out_and_comes_back_before_those_that_wait() -> None:
    scheduler = Scheduler(limits(num_kv_blocks=12, max_num_seqs=3), enable_prefix_caching=False)
    cache = ToyCache()
    requests = [add_request([number] * 12, max_tokens=20) for number in range(4)]  # the fourth has no place yet
    for request in requests:
        scheduler.add(request)
    while not scheduler.counters.preemptions:
        running = list(scheduler.running)
        step = scheduler.schedule()
        assert step is not None
        scheduler.advance(step, [*cache.run(step)])
    assert [sequence.request for sequence in running] == requests[:3]
    assert [sequence.request for sequence in scheduler.waiting] == [requests[2], requests[3]]
    _run(scheduler, cache)


def test_a_later_turn_of_a_conversation_finds_what_was_generated_too() -> None:
    scheduler, cache = Scheduler(limits()), ToyCache()
    first = add_request([1, 2, 3, 4, 5], max_tokens=9)
    scheduler.add(first)
    (answer,) = _run(scheduler, cache).values()
    # 14 tokens, of which the last was never computed: 3 full blocks.
    scheduler.add(add_request([1, 2, 3, 4, 5, *answer, 6, 7]))
    _run(scheduler, cache)
    assert scheduler.counters.prefix_hits == 12


def test_a_prompt_that_is_cached_whole_still_computes_its_last_block() -> None:
    scheduler, cache = Scheduler(limits()), ToyCache()
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]
    scheduler.add(add_request(prompt))
    _run(scheduler, cache)
    scheduler.add(add_request(prompt))
    step = scheduler.schedule()
    assert step is not None
    assert [(part.start, part.count) for part in step.slices] == [(4, 4)]
    assert (scheduler.counters.prefix_queries, scheduler.counters.prefix_hits) == (16, 4)


def test_another_tenant_hits_nothing() -> None:
    scheduler, cache = Scheduler(limits()), ToyCache()
    scheduler.add(add_request([1] * 12, salt=b"a"))
    _run(scheduler, cache)
    scheduler.add(add_request([1] * 12, salt=b"b"))
    _run(scheduler, cache)
    assert scheduler.counters.prefix_hits == 0


def test_a_stop_token_ends_a_request_but_not_before_min_tokens() -> None:
    prompt = [1, 2]
    second, third = expected_tokens(prompt, 3)[1:]
    for min_tokens, wanted in ((0, 2), (2, 3)):
        scheduler = Scheduler(limits())
        scheduler.add(add_request(prompt, stop_token_ids=(second, third), min_tokens=min_tokens))
        (tokens,) = _run(scheduler, ToyCache()).values()
        assert len(tokens) == wanted


def test_what_can_never_run_is_refused_with_a_sentence_and_leaves_nothing() -> None:
    cases = {
        "empty": add_request([]),
        "no room": add_request([1] * 48),
        "vocabulary": add_request([1, 384]),
        "out of range": add_request([1], temperature=float("nan")),
    }
    for words, request in cases.items():
        scheduler = Scheduler(limits())
        progress = scheduler.add(request)
        assert progress is not None
        assert progress.finish_reason == "error"
        assert words in (progress.error or "")
        assert not scheduler.has_work


def test_a_row_that_fails_ends_alone() -> None:
    scheduler = Scheduler(limits())
    good, bad = add_request([1], max_tokens=2), add_request([2], max_tokens=2)
    scheduler.add(good)
    scheduler.add(bad)
    step = scheduler.schedule()
    assert step is not None
    progress = scheduler.advance(step, [7, None])
    assert [item.finish_reason for item in progress] == [None, "error"]
    assert [sequence.request for sequence in scheduler.running] == [good]
    scheduler.check_integrity()


def test_the_state_hash_tells_a_different_token_and_a_different_prompt() -> None:
    hashes = set()
    for prompt, token in (([1, 2], 5), ([1, 2], 6), ([1, 3], 5)):
        scheduler = Scheduler(limits())
        scheduler.add(add_request(prompt))
        step = scheduler.schedule()
        assert step is not None
        scheduler.advance(step, [token])
        hashes.add(scheduler.state_hash)
    assert len(hashes) == 3
