"""Sampling: the distributions are the promised ones, and a row's token depends on that row alone."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ryzanstein_worker.engine.request import SamplingParams
from ryzanstein_worker.engine.sampler import SamplingRow, sample, uniform

LOGITS_V = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0, 0.5])


def row(position: int = 0, output: list[int] | None = None, **params: Any) -> SamplingRow:
    return SamplingRow(SamplingParams(**{"max_tokens": 9, **params}), position, output or [])


def draw(count: int = 1, logits_V: torch.Tensor = LOGITS_V, **params: Any) -> list[int]:
    """`count` tokens at positions 0, 1, … from one row's logits."""
    output = params.pop("output", None)
    rows = [row(position, output, **params) for position in range(count)]
    return [item.token_id if item.token_id is not None else -1 for item in sample(logits_V.repeat(count, 1), rows)]


def reference(
    logits_V: torch.Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """The filtered distribution, by the definitions, one token at a time."""
    weights = [math.exp((float(x) - float(logits_V.max())) / temperature) for x in logits_V]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept = [token for token in order if weights[token] >= min_p * weights[order[0]]][: top_k or None]
    total, before, chosen = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if top_p < 1 and before >= top_p * total:
            break
        chosen.append(token)
        before += weights[token]
    return {token: weights[token] / before for token in chosen}


@settings(max_examples=25, deadline=None)
@given(
    temperature=st.floats(0.2, 2.0),
    top_k=st.integers(0, 7),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**64 - 1),
)
def test_tokens_follow_the_filtered_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    count = 2000
    tokens = Counter(draw(count, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed))
    wanted = reference(LOGITS_V, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert set(tokens) <= set(wanted), "a token came that the filters exclude"
    for token, probability in wanted.items():
        # Six standard deviations and one: by chance about once in 10**8 of these comparisons.
        bound = 6 * math.sqrt(probability * (1 - probability) / count) + 1 / count
        assert abs(tokens[token] / count - probability) <= bound


def test_a_row_does_not_depend_on_its_batch() -> None:
    logits_NV = torch.randn(7, 50, generator=torch.Generator().manual_seed(3))
    rows = [
        row(4, temperature=0.0),
        row(5, seed=1),
        row(6, seed=2, top_p=0.7),
        row(7, seed=3, top_k=5, output=[1, 1, 2], frequency_penalty=1.5),
        row(8, seed=4, min_p=0.2, logprobs=3),
        row(9, temperature=0.0, output=[3], presence_penalty=2.0),
        row(10, seed=5, min_tokens=5, stop_token_ids=(7,)),
    ]
    together = sample(logits_NV, rows)
    alone = [sample(logits_NV[n : n + 1], [item])[0] for n, item in enumerate(rows)]
    backwards = sample(logits_NV.flip(0), rows[::-1])[::-1]
    assert together == alone == backwards


def test_the_seed_and_the_position_decide_and_nothing_else() -> None:
    assert draw(50, seed=11) == draw(50, seed=11)
    assert draw(50, seed=11) != draw(50, seed=12)
    assert len({uniform(seed, position) for seed in range(50) for position in range(50)}) == 2500
    assert all(0 <= uniform(seed, 0) < 1 for seed in (0, 1, 2**63, 2**64 - 1))


def test_uniform_numbers_are_uniform_across_positions_and_across_seeds() -> None:
    for numbers in ([uniform(7, n) for n in range(4000)], [uniform(n, 7) for n in range(4000)]):
        deciles = Counter(int(number * 10) for number in numbers)
        assert all(abs(deciles[n] - 400) < 6 * math.sqrt(400) for n in range(10))


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-6])
def test_a_temperature_of_nothing_is_greedy(temperature: float) -> None:
    assert set(draw(20, temperature=temperature)) == {4}


def test_penalties_count_the_output_as_openai_defines() -> None:
    # Token 4 leads token 0 by 1. Twice in the output: 2 * 0.6 > 1 turns it, 1 * 0.6 + 0.3 < 1 would not.
    assert draw(temperature=0.0, output=[4, 4], frequency_penalty=0.6) == [0]
    assert draw(temperature=0.0, output=[4], frequency_penalty=0.6, presence_penalty=0.3) == [4]
    assert draw(temperature=0.0, output=[4, 4, 4], presence_penalty=0.9) == [4]
    assert draw(temperature=0.0, output=[0], presence_penalty=-1.5) == [0]


def test_stop_tokens_are_out_of_reach_until_min_tokens() -> None:
    params: dict[str, Any] = {"temperature": 0.0, "stop_token_ids": (4,), "min_tokens": 2}
    assert draw(output=[1], **params) == [0]
    assert draw(output=[1, 1], **params) == [4]


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    (item,) = sample(LOGITS_V[None], [row(temperature=0.0, output=[4], presence_penalty=2.0, logprobs=2)])
    expected_V = LOGITS_V.log_softmax(-1)
    assert item.token_id == 0
    assert item.logprobs is not None
    assert item.logprobs.logprob == pytest.approx(float(expected_V[0]))
    assert item.logprobs.top_ids == [4, 0]
    assert item.logprobs.top_logprobs == pytest.approx([float(expected_V[4]), float(expected_V[0])])


def test_logits_that_are_no_numbers_fail_their_row_alone() -> None:
    logits_NV = LOGITS_V.repeat(3, 1)
    logits_NV[1, 2] = torch.nan
    for params in ({"temperature": 0.0}, {"seed": 1}, {"top_p": 0.5}):
        tokens = [item.token_id for item in sample(logits_NV, [row(**params)] * 3)]
        assert tokens[1] is None
        assert tokens[0] == tokens[2] is not None


def test_a_token_without_weight_is_never_drawn() -> None:
    logits_V = torch.full((1000,), -torch.inf)
    logits_V[[3, 500]] = 0.0
    assert set(draw(300, logits_V=logits_V, seed=1)) == {3, 500}
    assert set(draw(300, logits_V=logits_V, seed=1, top_p=0.99)) == {3, 500}
