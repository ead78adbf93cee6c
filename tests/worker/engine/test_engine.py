"""The engine over real rank processes: one rank and two, on the tiny model."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engine_requests import add_request
from processes import children, is_running, open_descriptors, until
from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.engine import Engine, EngineBusyError, GroupLostError
from ryzanstein_worker.engine.request import AddRequest, TokenOutput
from ryzanstein_worker.errors import ConfigError
from tiny_model import write_tiny_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.ranks, pytest.mark.timeout(300)]

ENDLESS = 8000
"""Tokens that take seconds on any machine: a request for them still runs when a test that was held up looks at it."""
PROMPT = [5, 9, 200, 31, 7, 7, 120, 44, 3, 250, 17, 60, 81, 2, 99, 12, 8, 300, 41, 6]


def config(model_dir: Path, ranks: int = 1, **values: object) -> EngineConfig:
    defaults = {"device": "cpu", "num_kv_blocks": 2048, "block_size": 8, "max_num_batched_tokens": 64}
    return EngineConfig(model_dir=str(model_dir), tensor_parallel_size=ranks, **{**defaults, **values})  # type: ignore[arg-type]  # the values name its fields


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2 * ENDLESS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(model_dir: Path) -> AsyncIterator[tuple[Engine, Engine]]:
    """One rank, and two; started at once to save time."""
    one, two = await asyncio.gather(
        Engine.start(config(model_dir, 1, max_queued_requests=12)), Engine.start(config(model_dir, 2))
    )
    yield one, two
    await asyncio.gather(one.stop(), two.stop())


async def collect(engine: Engine, request: AddRequest) -> list[TokenOutput]:
    async with asyncio.timeout(60):
        return [output async for output in engine.generate(request)]


async def tokens(engine: Engine, request: AddRequest) -> list[int]:
    return [token for output in await collect(engine, request) for token in output.token_ids]


def some_requests() -> list[AddRequest]:
    return [
        add_request(PROMPT[n:], max_tokens=16, temperature=0.7 * (n % 2), seed=n, top_p=0.9 if n == 3 else 1.0)
        for n in range(8)
    ]


async def test_two_ranks_give_the_tokens_of_one_together_and_alone(engines: tuple[Engine, Engine]) -> None:
    one, two = engines
    alone = [await tokens(one, request) for request in some_requests()]
    for engine in engines:
        assert await asyncio.gather(*(tokens(engine, request) for request in some_requests())) == alone
    assert two.info.num_parameters == one.info.num_parameters


async def test_the_outputs_tell_how_a_request_went(engines: tuple[Engine, Engine]) -> None:
    prompt = [33, *PROMPT]
    outputs = await collect(engines[0], add_request(prompt, max_tokens=3, logprobs=2))
    assert [output.finish_reason for output in outputs] == [None, None, "length"]
    assert outputs[0].first_scheduled is not None
    assert outputs[1].first_scheduled is None
    assert all(output.logprobs and len(output.logprobs[0].top_ids) == 2 for output in outputs)
    again = await collect(engines[0], add_request(prompt, max_tokens=1))
    assert again[0].num_cached_tokens == 16
    (stop, *_) = outputs[1].token_ids
    stopped = await collect(engines[0], add_request(prompt, stop_token_ids=(stop,)))
    assert stopped[-1].finish_reason == "stop"
    assert stopped[-1].token_ids == [stop]


async def test_a_refused_request_ends_with_its_sentence_and_hurts_nobody(engines: tuple[Engine, Engine]) -> None:
    for engine in engines:
        good, bad = await asyncio.gather(
            collect(engine, add_request(PROMPT)), collect(engine, add_request([1, 10**9], temperature=1.0))
        )
        assert good[-1].finish_reason == "length"
        assert (bad[-1].finish_reason, bad[-1].error) == (
            "error",
            "The prompt holds a token id outside the model's vocabulary.",
        )


async def test_closing_a_stream_early_aborts_the_request_and_frees_its_blocks(engines: tuple[Engine, Engine]) -> None:
    for engine in engines:
        stream = engine.generate(add_request(PROMPT, max_tokens=ENDLESS))
        await anext(stream)
        assert engine.stats().running == 1
        assert engine.stats().kv_cache_usage > 0
        await stream.aclose()
        await until(lambda engine=engine: engine.stats().kv_cache_usage == 0, 30.0, "blocks freed")  # type: ignore[misc]  # bound now
        assert engine.stats().running == 0


async def test_an_abort_by_id_ends_the_stream(engines: tuple[Engine, Engine]) -> None:
    request = add_request(PROMPT, max_tokens=ENDLESS)
    outputs = []
    async for output in engines[1].generate(request):
        outputs.append(output)
        if len(outputs) == 2:
            engines[1].abort(request.request_id)
    assert outputs[-1].finish_reason == "abort"
    engines[1].abort("unknown")


async def test_more_requests_than_may_queue_are_not_started(engines: tuple[Engine, Engine]) -> None:
    engine = engines[0]
    tasks = [asyncio.create_task(collect(engine, add_request([n], max_tokens=30))) for n in range(12)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusyError):
        await collect(engine, add_request([1]))
    assert all(outputs[-1].finish_reason == "length" for outputs in await asyncio.gather(*tasks))


async def test_an_id_in_use_is_refused(engines: tuple[Engine, Engine]) -> None:
    stream = engines[0].generate(add_request(PROMPT, request_id="same", max_tokens=ENDLESS))
    await anext(stream)
    with pytest.raises(ValueError, match="same"):
        await collect(engines[0], add_request(PROMPT, request_id="same"))
    await stream.aclose()


async def test_a_request_beyond_the_frame_limit_is_the_callers_error_and_the_engine_lives(
    engines: tuple[Engine, Engine],
) -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        await collect(engines[0], add_request([2**40] * (8 * 2**20)))
    assert await tokens(engines[0], add_request(PROMPT))


async def test_health_tells_of_each_rank_and_beats_go_on_while_idle(engines: tuple[Engine, Engine]) -> None:
    before = engines[1].health()
    assert before.alive
    assert [rank.rank for rank in before.ranks] == [0, 1]
    await until(
        lambda: all(a.beats > b.beats for a, b in zip(engines[1].health().ranks, before.ranks, strict=True)),
        30.0,
        "a beat of each rank",
    )


async def test_stop_ends_streams_processes_and_descriptors(model_dir: Path) -> None:
    descriptors, before = open_descriptors(), children(os.getpid())
    engine = await Engine.start(config(model_dir, 1))
    ranks = set(children(os.getpid())) - set(before)
    stream = engine.generate(add_request(PROMPT, max_tokens=ENDLESS))
    await anext(stream)
    await engine.stop()
    with pytest.raises(GroupLostError, match="stopped"):
        async for _ in stream:
            pass
    assert len(ranks) == 1
    assert not any(is_running(pid) for pid in ranks)
    assert not engine.health().alive
    assert (await engine.wait_lost()).rank is None
    await engine.stop()
    del engine, stream
    await until(lambda: set(open_descriptors().values()) <= set(descriptors.values()), 30.0, "descriptors closed")


async def test_what_only_the_user_can_mend_is_said_in_a_sentence_and_leaves_no_process(tmp_path: Path) -> None:
    before = children(os.getpid())
    odd = write_tiny_model(tmp_path, num_heads=3, num_kv_heads=3, hidden_size=24)
    with pytest.raises(ConfigError, match="cannot be split over 2 tensor-parallel ranks"):
        await Engine.start(config(odd, 2))
    assert children(os.getpid()) == before
