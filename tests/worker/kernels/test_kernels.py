"""Each kernel against its plain reference."""

import random
from dataclasses import dataclass

import pytest
import torch

from ryzanstein_worker.kernels import paged_attention as attention
from ryzanstein_worker.kernels.kv_store import store_kv
from ryzanstein_worker.kernels.paged_attention import AttentionPlan, paged_attention, paged_attention_reference
from ryzanstein_worker.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference
from ryzanstein_worker.kernels.rope import rope, rope_reference

BLOCK_SIZE = 4


@dataclass(frozen=True)
class Batch:
    """(stored tokens, new tokens) of each sequence, over a cache filled with noise."""

    sequences: list[tuple[int, int]]

    @property
    def starts(self) -> list[int]:
        return [sum(new for _, new in self.sequences[:index]) for index in range(len(self.sequences))]

    @property
    def lens(self) -> list[int]:
        return [new for _, new in self.sequences]

    @property
    def contexts(self) -> list[int]:
        return [stored + new for stored, new in self.sequences]

    @property
    def tables(self) -> torch.Tensor:
        blocks = -(-max(self.contexts) // BLOCK_SIZE)
        return torch.randperm(64)[: len(self.sequences) * blocks].view(-1, blocks)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(
    "sequences",
    [
        [(0, 9)],
        [(7, 1)],
        [(8, 1), (8, 1)],
        [(0, 1), (30, 1), (11, 1)],
        [(5, 13)],
        [(3, 1), (0, 6), (20, 1), (9, 12), (0, 1)],
    ],
    ids=["prefill", "decode", "decode-equal", "decode-batch", "chunk", "mixed"],
)
def test_paged_attention_is_its_definition(
    sequences: list[tuple[int, int]], heads: int, kv_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERY_TILE", 5)
    torch.manual_seed(1)
    batch = Batch(sequences)
    q = torch.randn(sum(batch.lens), heads, 8)
    k, v = torch.randn(2, 64, BLOCK_SIZE, kv_heads, 8)
    layout = batch.tables, batch.starts, batch.lens, batch.contexts
    plan = AttentionPlan.build(*layout, block_size=BLOCK_SIZE, window=window, dtype=torch.float32)
    expected = paged_attention_reference(q, k, v, *layout, window=window)
    torch.testing.assert_close(paged_attention(q, k, v, plan), expected)


def test_what_lies_in_other_sequences_blocks_or_beyond_the_context_changes_nothing() -> None:
    torch.manual_seed(2)
    k, v = torch.randn(2, 8, BLOCK_SIZE, 1, 8)
    q = torch.randn(2, 2, 8)
    tables = torch.tensor([[3, 5], [6, 0]])
    plan = AttentionPlan.build(tables, [0, 1], [1, 1], [6, 3], block_size=BLOCK_SIZE, window=None, dtype=torch.float32)
    before = paged_attention(q, k, v, plan)
    for cache in (k, v):
        cache[[0, 1, 2, 4, 7]] = 1e30
        cache[5, 2:] = cache[6, 3:] = 1e30
    assert torch.equal(paged_attention(q, k, v, plan), before)


def test_keys_and_values_go_to_their_slots_and_nowhere_else() -> None:
    k_cache, v_cache = torch.zeros(2, 5, BLOCK_SIZE, 2, 3)
    k, v = torch.randn(2, 3, 2, 3)
    slots = random.Random(3).sample(range(20), 3)
    store_kv(k, v, k_cache, v_cache, torch.tensor(slots))
    for index, slot in enumerate(slots):
        assert torch.equal(k_cache[slot // BLOCK_SIZE, slot % BLOCK_SIZE], k[index])
        assert torch.equal(v_cache[slot // BLOCK_SIZE, slot % BLOCK_SIZE], v[index])
    assert torch.count_nonzero(k_cache) + torch.count_nonzero(v_cache) == k.numel() + v.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_its_definition_also_fused_with_the_residual(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    x, residual = torch.randn(2, 7, 16).to(dtype)
    weight = torch.randn(16).to(dtype)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5))
    total = x + residual
    normed, kept = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(kept, total)
    torch.testing.assert_close(normed, rms_norm_reference(total, weight, 1e-5))


def test_rope_is_its_definition() -> None:
    torch.manual_seed(5)
    x, angles = torch.randn(6, 3, 8), torch.randn(6, 4) * 3
    cos = torch.cat((angles.cos(), angles.cos()), dim=-1)[:, None]
    sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)[:, None]
    torch.testing.assert_close(rope(x, cos, sin), rope_reference(x, angles))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_one_sequences_overflow_does_not_reach_another_through_the_padding(poison: float) -> None:
    torch.manual_seed(6)
    k_cache, v_cache = torch.zeros(2, 4, BLOCK_SIZE, 1, 8)
    k, v = torch.randn(2, 5, 1, 8)
    k[:4] = v[:4] = poison  # fills block 0, by which the shorter table is padded
    store_kv(k, v, k_cache, v_cache, torch.tensor([0, 1, 2, 3, 8]))
    plan = AttentionPlan.build(
        torch.tensor([[0, 1], [2, 0]]), [0, 1], [1, 1], [5, 1], block_size=BLOCK_SIZE, window=None, dtype=torch.float32
    )
    out = paged_attention(torch.randn(2, 1, 8), k_cache, v_cache, plan)
    torch.testing.assert_close(out[1], v[4])
