"""A real tiny model under the real scheduler: how a request is batched never changes its tokens."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from engine_requests import add_request
from local_replica import CPU, finish, load_tiny, local_replica, outputs
from ryzanstein_worker.engine.follower import DivergedError, Follower
from ryzanstein_worker.engine.frames import Outcome, StepFrame
from ryzanstein_worker.engine.replica import Replica
from ryzanstein_worker.engine.request import AddRequest
from ryzanstein_worker.engine.runner import Model, StepOutOfMemoryError, sample_each
from ryzanstein_worker.engine.sampler import SamplingRow
from ryzanstein_worker.model.kv_cache import KVCache
from ryzanstein_worker.model.meta import BatchMeta
from tiny_model import write_tiny_model

PROMPT = [5, 9, 200, 31, 7, 7, 120, 44, 3, 250, 17, 60, 81, 2, 99, 12, 8, 300, 41, 6]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    torch.set_num_threads(1)
    return load_tiny(model_dir)


@pytest.fixture
def replica(model_dir: Path, model: Model) -> Callable[..., Replica]:
    return lambda **values: local_replica(model_dir, values.pop("model", model), **values)


def mixed(count: int = 6) -> list[AddRequest]:
    """Greedy and seeded requests of various lengths that share a prefix."""
    return [
        add_request(
            [*PROMPT[: 6 + 2 * n], n], temperature=0.8 * (n % 2), seed=n, top_p=0.9 if n == 3 else 1.0, max_tokens=14
        )
        for n in range(count)
    ]


def one_by_one(replica: Callable[..., Replica]) -> list[list[int]]:
    """What each of `mixed` gets alone in an engine with room for everything."""
    roomy = {"num_kv_blocks": 64, "max_num_batched_tokens": 64, "prefix_caching": False}
    return [outputs(replica(**roomy), [request])[0] for request in mixed()]


def test_batch_mates_do_not_change_a_request(replica: Callable[..., Replica]) -> None:
    assert outputs(replica(num_kv_blocks=64, max_num_seqs=6), mixed()) == one_by_one(replica)


def test_a_chunked_prompt_gives_the_same_tokens(replica: Callable[..., Replica]) -> None:
    assert outputs(replica(num_kv_blocks=64, max_num_batched_tokens=4), mixed()) == one_by_one(replica)


def test_preemption_gives_the_same_tokens(replica: Callable[..., Replica]) -> None:
    for caching in (True, False):
        tight = replica(num_kv_blocks=12, max_num_seqs=6, max_num_batched_tokens=32, prefix_caching=caching)
        assert outputs(tight, mixed()) == one_by_one(replica)
        assert tight.scheduler.counters.preemptions > 0


def test_a_prefix_hit_gives_the_same_tokens_as_a_miss(replica: Callable[..., Replica]) -> None:
    warm = replica(num_kv_blocks=64)
    first, second = outputs(warm, mixed()), outputs(warm, mixed())
    assert warm.scheduler.counters.prefix_hits > 50
    assert first == second == one_by_one(replica)


def test_an_abort_in_the_middle_frees_the_blocks(replica: Callable[..., Replica]) -> None:
    engine = replica(num_kv_blocks=64)
    request = add_request(PROMPT, max_tokens=20)
    engine.change([], [request])
    for _ in range(4):
        step = engine.scheduler.schedule()
        assert step is not None
        engine.book(step, engine.run(step)[0])
    assert engine.scheduler.kv_cache_usage > 0
    engine.change([request.request_id], [])
    assert engine.scheduler.kv_cache_usage == 0
    assert not engine.scheduler.has_work


def test_a_request_goes_on_behind_what_another_engine_generated(replica: Callable[..., Replica]) -> None:
    odd = add_request(PROMPT[:9], temperature=1.5, seed=3, frequency_penalty=1.5, presence_penalty=0.5, max_tokens=14)
    early = add_request(PROMPT[:5], min_tokens=8, stop_token_ids=tuple(range(150)), max_tokens=14)
    for request in [*mixed(4), odd, early]:
        (whole,) = outputs(replica(), [request])
        for cut in range(len(whole)):
            rest = msgspec.structs.replace(request, output_token_ids=whole[:cut])
            assert outputs(replica(max_num_batched_tokens=8), [rest]) == [whole]


def test_a_preempted_continuation_gives_the_same_tokens(replica: Callable[..., Replica]) -> None:
    whole = one_by_one(replica)
    rest = [
        msgspec.structs.replace(request, output_token_ids=tokens[: 2 + n])
        for n, (request, tokens) in enumerate(zip(mixed(), whole, strict=True))
    ]
    tight = replica(num_kv_blocks=12, max_num_seqs=6, max_num_batched_tokens=32)
    assert outputs(tight, rest) == whole
    assert tight.scheduler.counters.preemptions > 0


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ([384], "outside the model's vocabulary"),
        ([5, -1], "outside the model's vocabulary"),
        ([5] * 8, "all that was asked for"),
        ([5] * 40, "no room for more"),
        ([None], "could not be checked"),
    ],
)
def test_a_continuation_that_cannot_be_fails_alone(
    replica: Callable[..., Replica], output: list[int], sentence: str
) -> None:
    bad = msgspec.structs.replace(add_request(PROMPT[:8]), output_token_ids=output)
    good = mixed(1)
    engine = replica(num_kv_blocks=64)
    ended = finish(engine, [bad, *good])
    assert ended[bad.request_id].finish_reason == "error"
    assert sentence in (ended[bad.request_id].error or "")
    assert ended[good[0].request_id].sequence.token_ids[-14:] == one_by_one(replica)[0]


class ShortOfMemory:
    """A decoder on a device that holds no step of more than `limit` tokens."""

    device = CPU

    def __init__(self, model: Model, limit: int, error: Exception) -> None:
        self._model, self._limit, self._error = model, limit, error

    def forward(
        self, token_ids_T: torch.Tensor, meta: BatchMeta, kv: KVCache, on_layer: Callable[[], None]
    ) -> torch.Tensor:
        if len(token_ids_T) > self._limit:
            raise self._error
        return self._model.forward(token_ids_T, meta, kv, on_layer)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor | None:
        return self._model.logits(hidden_ND)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
def test_a_prefill_that_does_not_fit_into_memory_fails_alone(
    replica: Callable[..., Replica], model: Model, error: Exception
) -> None:
    small, large = add_request(PROMPT[:4], max_tokens=10), add_request(PROMPT, max_tokens=10)
    alone = outputs(replica(max_num_batched_tokens=32), [small])
    engine = replica(model=ShortOfMemory(model, 12, error), max_num_batched_tokens=32)
    ended = finish(engine, [small, large])
    assert ended[large.request_id].finish_reason == "error"
    assert ended[small.request_id].sequence.token_ids[4:] == alone[0]
    assert engine.scheduler.kv_cache_usage == 0


def test_out_of_memory_beside_other_ranks_and_other_errors_are_not_hidden(
    replica: Callable[..., Replica], model: Model
) -> None:
    for error, expected in ((OUT_OF_MEMORY[0], StepOutOfMemoryError), (RuntimeError("a bug"), RuntimeError)):
        engine = replica(model=ShortOfMemory(model, 2, error), alone=False)
        with pytest.raises(expected):
            finish(engine, [add_request(PROMPT)])


class Allergic:
    """A decoder that raises at a token."""

    def __init__(self, model: Model, token: int, *, device: torch.device = CPU) -> None:
        self.device = device
        self._model, self._token = model, token

    def forward(
        self, token_ids_T: torch.Tensor, meta: BatchMeta, kv: KVCache, on_layer: Callable[[], None]
    ) -> torch.Tensor:
        if self._token in token_ids_T:
            raise ValueError("a fault that nobody foresaw")
        return self._model.forward(token_ids_T.to(CPU), meta, kv, on_layer)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor | None:
        return self._model.logits(hidden_ND)


def test_whatever_one_request_raises_in_a_step_fails_that_one_alone(
    replica: Callable[..., Replica], model: Model
) -> None:
    good = mixed(3)
    expected = [outputs(replica(num_kv_blocks=64), [request])[0] for request in good]
    poison = [add_request([5, 6, 333, 7]), add_request([333])]
    engine = replica(model=Allergic(model, 333), num_kv_blocks=64, max_num_seqs=8, max_num_batched_tokens=64)
    ended = finish(engine, [good[0], poison[0], good[1], poison[1], good[2]])
    assert [ended[request.request_id].finish_reason for request in poison] == ["error", "error"]
    sequences = [ended[request.request_id].sequence for request in good]
    assert [sequence.token_ids[sequence.num_prompt :] for sequence in sequences] == expected
    assert engine.scheduler.kv_cache_usage == 0


def test_a_fault_beside_other_ranks_or_of_the_device_is_no_requests_own(
    replica: Callable[..., Replica], model: Model
) -> None:
    beside = replica(model=Allergic(model, 333), alone=False)
    with pytest.raises(ValueError, match="nobody foresaw"):
        finish(beside, [add_request([333])])
    broken = replica(model=Allergic(model, 5, device=torch.device("cuda", 99)))  # no call to it succeeds
    with pytest.raises((RuntimeError, AssertionError)):
        finish(broken, [add_request(PROMPT)])


def test_a_row_whose_sampling_raises_fails_alone() -> None:
    good = SamplingRow(add_request([1]).sampling, 3, [])
    bad = SamplingRow(add_request([1], min_tokens=9, stop_token_ids=(10**6,)).sampling, 3, [])
    tokens = [item.token_id for item in sample_each(torch.eye(3), [good, bad, good])]
    assert tokens == [0, None, 2]


def frame(leader: Replica, sequence: int, outcome: Outcome | None = None, **changes: object) -> StepFrame:
    """What rank 0 would send now."""
    values = {"epoch": "e", "aborts": [], "adds": [], "state_hash": leader.scheduler.state_hash, **changes}
    return StepFrame(sequence=sequence, outcome=outcome, **values)  # type: ignore[arg-type]  # changes name its fields


@pytest.fixture
def pair(replica: Callable[..., Replica]) -> tuple[Replica, Follower]:
    beats = lambda state: None  # noqa: E731
    return replica(), Follower(replica(), epoch="e", leader=None, beat=beats)  # type: ignore[arg-type]  # turn() only


def test_a_follower_walks_with_the_leader(pair: tuple[Replica, Follower]) -> None:
    leader, follower = pair
    adds, outcome, sequence = mixed(3), None, 0
    leader.change([], adds)
    while True:
        follower.turn(frame(leader, sequence, outcome, adds=adds))
        step = leader.scheduler.schedule()
        if step is None:
            break
        outcome, _ = leader.run(step)
        leader.book(step, outcome)
        adds, sequence = [], sequence + 1
    assert sequence > 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": "older"}, "epoch older"),
        ({"sequence": 5}, "frame 5 came where frame 0 was due"),
        ({"state_hash": 1}, "the state is"),
        ({"outcome": Outcome(token_ids=[])}, "ran a step"),
    ],
)
def test_a_follower_refuses_a_frame_that_does_not_fit(
    pair: tuple[Replica, Follower], change: dict[str, object], words: str
) -> None:
    leader, follower = pair
    adds = [add_request(PROMPT)]
    leader.change([], adds)
    with pytest.raises(DivergedError, match=words):
        follower.turn(frame(leader, **{"sequence": 0, "adds": adds, **change}))  # type: ignore[arg-type]  # as above
