"""BatchMeta: where each token of a step stands and where its key and value go."""

import pytest
import torch

from ryzanstein_worker.model.config import parse_config
from ryzanstein_worker.model.kv_cache import KVCache, bytes_per_block
from ryzanstein_worker.model.meta import BatchMeta, SequenceSlice
from ryzanstein_worker.parallel.group import Group

CPU = torch.device("cpu")


def test_a_mixed_step_is_laid_out_flat() -> None:
    sequences = [SequenceSlice(0, 3, [5]), SequenceSlice(6, 1, [2, 9, 7]), SequenceSlice(3, 3, (4, 8))]
    meta = BatchMeta.build(sequences, block_size=4, device=CPU)
    assert meta.positions_T.tolist() == [0, 1, 2, 6, 3, 4, 5]
    assert meta.slot_mapping_T.tolist() == [20, 21, 22, 38, 19, 32, 33]
    assert meta.block_tables_BP.tolist() == [[5, 0], [2, 9], [4, 8]]
    assert meta.last_rows_B.tolist() == [2, 3, 6]
    assert (meta.query_starts, meta.query_lens, meta.context_lens) == ((0, 3, 4), (3, 1, 3), (3, 7, 6))
    assert not meta.decode_only
    assert BatchMeta.build([SequenceSlice(6, 1, [2, 9])], block_size=4, device=CPU).decode_only


@pytest.mark.parametrize(
    "sequences", [[], [SequenceSlice(0, 0, [1])], [SequenceSlice(-1, 2, [1])], [SequenceSlice(4, 1, [1])]]
)
def test_a_step_that_cannot_be_is_refused(sequences: list[SequenceSlice]) -> None:
    with pytest.raises(ValueError):
        BatchMeta.build(sequences, block_size=4, device=CPU)


@pytest.mark.parametrize(("size", "kv_heads"), [(1, 2), (2, 1), (4, 1)])
def test_bytes_per_block_is_what_a_rank_allocates_for_a_block(size: int, kv_heads: int) -> None:
    raw = {"model_type": "llama", "vocab_size": 9, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 3}
    config = parse_config({**raw, "num_attention_heads": 4, "num_key_value_heads": 2}, {}, source="config.json")
    group = Group(0, size)
    kv = KVCache.allocate(config, group, num_blocks=5, block_size=16, dtype=torch.bfloat16, device=CPU)
    assert kv.k_LPSKH.shape == kv.v_LPSKH.shape == (3, 5, 16, kv_heads, 8)
    assert (kv.num_blocks, kv.block_size) == (5, 16)
    assert kv.k_LPSKH.nbytes + kv.v_LPSKH.nbytes == 5 * bytes_per_block(config, group, torch.bfloat16, 16)
    assert not kv.k_LPSKH.any()
    assert not kv.v_LPSKH.any()
