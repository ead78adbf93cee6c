"""Attention of a step's queries over keys and values that lie in blocks: gather, then torch's SDPA.

All sequences that bring one token are attended in one gather and one masked SDPA; a prefill chunk is attended alone,
in tiles of queries, against its cached prefix and itself. What depends on the batch alone (gather indices, masks) is
in an AttentionPlan, made once a step and shared by the layers. `paged_attention_reference` is the definition.

Shape letters: T tokens, B sequences, Q queries of a tile, C keys, N query heads, K kv heads, G = N / K, H head size,
P blocks, S slots a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

QUERY_TILE = 512
"""Queries per SDPA call: bounds the mask to 512 bytes a key, and skips most of what the causal mask would hide."""


@dataclass(frozen=True, slots=True)
class _Decode:
    rows_B: torch.Tensor | None  # flat token index of each query; None: all tokens in order
    blocks_BP: torch.Tensor
    num_keys: int
    mask_B11C: torch.Tensor | None  # added to the scores: 0 or -inf


@dataclass(frozen=True, slots=True)
class _Prefill:
    start: int  # flat token range of the queries
    end: int
    blocks_P: torch.Tensor
    num_keys: int
    mask_QC: torch.Tensor | None  # True: may be seen; None: plainly causal, Q == C


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who sees what in one step, for the layers that share a sliding window."""

    parts: tuple[_Decode | _Prefill, ...]

    @classmethod
    def build(
        cls,
        block_tables_BP: torch.Tensor,
        query_starts: Sequence[int],
        query_lens: Sequence[int],
        context_lens: Sequence[int],
        *,
        block_size: int,
        window: int | None,
        dtype: torch.dtype,
    ) -> "AttentionPlan":
        """`context_lens` count the stored tokens and the step's own; `window` n: a token sees itself, n - 1 before."""
        singles = [index for index, length in enumerate(query_lens) if length == 1]
        parts: list[_Decode | _Prefill] = []
        if singles:
            parts.append(_decode(block_tables_BP, query_starts, context_lens, singles, block_size, window, dtype))
        for index, length in enumerate(query_lens):
            if length > 1:
                start, context = query_starts[index], context_lens[index]
                parts.extend(_tiles(block_tables_BP[index], start, length, context, block_size, window))
        return cls(tuple(parts))


def paged_attention(
    q_TNH: torch.Tensor, k_PSKH: torch.Tensor, v_PSKH: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """softmax(q k / sqrt(H)) v for each query over what the plan lets it see; [T, N, H]. Keys are stored before."""
    first = plan.parts[0]
    if isinstance(first, _Decode) and first.rows_B is None:
        return _attend_decode(q_TNH, k_PSKH, v_PSKH, first)
    out_TNH = torch.empty_like(q_TNH, memory_format=torch.contiguous_format)
    for part in plan.parts:
        if isinstance(part, _Decode):
            out_TNH[part.rows_B] = _attend_decode(q_TNH[part.rows_B], k_PSKH, v_PSKH, part)
        else:
            out_TNH[part.start : part.end] = _attend_prefill(q_TNH[part.start : part.end], k_PSKH, v_PSKH, part)
    return out_TNH


def _decode(
    tables_BP: torch.Tensor,
    query_starts: Sequence[int],
    context_lens: Sequence[int],
    singles: list[int],
    block_size: int,
    window: int | None,
    dtype: torch.dtype,
) -> _Decode:
    device = tables_BP.device
    contexts = [context_lens[index] for index in singles]
    skipped = [0 if window is None else max(0, length - window) // block_size for length in contexts]
    num_keys = max(length - skip * block_size for length, skip in zip(contexts, skipped, strict=True))
    columns_P = torch.arange(-(-num_keys // block_size), device=device)
    everything = len(singles) == len(query_starts) and query_starts[-1] == len(query_starts) - 1
    if not everything:
        tables_BP = tables_BP[torch.tensor(singles, device=device)]
    skipped_B1 = torch.tensor(skipped, device=device)[:, None]
    blocks_BP = tables_BP.gather(1, (skipped_B1 + columns_P).clamp_(max=tables_BP.shape[1] - 1))
    mask_B11C = None
    if len(set(contexts)) > 1 or window is not None:
        keys_BC = skipped_B1 * block_size + torch.arange(num_keys, device=device)
        contexts_B1 = torch.tensor(contexts, device=device)[:, None]
        mask_BC = keys_BC < contexts_B1
        if window is not None:
            mask_BC &= keys_BC >= contexts_B1 - window
        # In the queries' dtype: SDPA would make this of a mask of booleans anew in every layer.
        mask_B11C = torch.zeros_like(mask_BC, dtype=dtype).masked_fill_(~mask_BC, -torch.inf)[:, None, None]
    rows_B = None if everything else torch.tensor([query_starts[index] for index in singles], device=device)
    return _Decode(rows_B, blocks_BP, num_keys, mask_B11C)


def _tiles(
    blocks_P: torch.Tensor, start: int, num_queries: int, context: int, block_size: int, window: int | None
) -> Iterator[_Prefill]:
    """The chunk's queries, QUERY_TILE at a time, each with the blocks between its first and its last visible key."""
    position = context - num_queries
    for tile in range(0, num_queries, QUERY_TILE):
        tile_end = min(tile + QUERY_TILE, num_queries)
        first_query, key_end = position + tile, position + tile_end
        first_block = 0 if window is None else max(0, first_query - window + 1) // block_size
        first_key = first_block * block_size
        mask_QC = None
        if first_query > 0 or (window is not None and key_end > window):
            queries_Q1 = torch.arange(first_query, key_end, device=blocks_P.device)[:, None]
            keys_C = torch.arange(first_key, key_end, device=blocks_P.device)
            mask_QC = keys_C <= queries_Q1
            if window is not None:
                mask_QC &= keys_C > queries_Q1 - window
        blocks = blocks_P[first_block : -(-key_end // block_size)]
        yield _Prefill(start + tile, start + tile_end, blocks, key_end - first_key, mask_QC)


def _gather(cache_PSKH: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """The named blocks, one after another: [len(blocks) * S, K, H]."""
    return cache_PSKH.index_select(0, blocks).flatten(0, 1)


def _attend_decode(q_BNH: torch.Tensor, k_PSKH: torch.Tensor, v_PSKH: torch.Tensor, part: _Decode) -> torch.Tensor:
    num_sequences, num_heads, head_dim = q_BNH.shape
    num_kv_heads = k_PSKH.shape[2]
    blocks = part.blocks_BP.flatten()

    def keys_of(cache_PSKH: torch.Tensor) -> torch.Tensor:
        all_BCKH = _gather(cache_PSKH, blocks).view(num_sequences, -1, num_kv_heads, head_dim)
        return all_BCKH[:, : part.num_keys].transpose(1, 2)

    # The G query heads that share a kv head stand where SDPA expects queries: no key is repeated.
    q_BKGH = q_BNH.reshape(num_sequences, num_kv_heads, -1, head_dim)
    out_BKGH = F.scaled_dot_product_attention(q_BKGH, keys_of(k_PSKH), keys_of(v_PSKH), attn_mask=part.mask_B11C)
    return out_BKGH.reshape(num_sequences, num_heads, head_dim)


def _attend_prefill(q_QNH: torch.Tensor, k_PSKH: torch.Tensor, v_PSKH: torch.Tensor, part: _Prefill) -> torch.Tensor:
    num_queries, num_heads, head_dim = q_QNH.shape
    num_kv_heads = k_PSKH.shape[2]
    groups = num_heads // num_kv_heads

    def keys_of(cache_PSKH: torch.Tensor) -> torch.Tensor:
        keys_CKH = _gather(cache_PSKH, part.blocks_P)[: part.num_keys]
        return keys_CKH.transpose(0, 1)[:, None].expand(-1, groups, -1, -1)

    q_KGQH = q_QNH.reshape(num_queries, num_kv_heads, groups, head_dim).permute(1, 2, 0, 3)
    out_KGQH = F.scaled_dot_product_attention(
        q_KGQH, keys_of(k_PSKH), keys_of(v_PSKH), attn_mask=part.mask_QC, is_causal=part.mask_QC is None
    )
    return out_KGQH.permute(2, 0, 1, 3).reshape(num_queries, num_heads, head_dim)


def paged_attention_reference(
    q_TNH: torch.Tensor,
    k_PSKH: torch.Tensor,
    v_PSKH: torch.Tensor,
    block_tables_BP: torch.Tensor,
    query_starts: Sequence[int],
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    *,
    window: int | None,
) -> torch.Tensor:
    """The definition: one query at a time, one dot product a key."""
    out_TNH = torch.empty_like(q_TNH)
    groups = q_TNH.shape[1] // k_PSKH.shape[2]
    for blocks_P, start, length, context in zip(block_tables_BP, query_starts, query_lens, context_lens, strict=True):
        k_CNH = k_PSKH[blocks_P].flatten(0, 1).repeat_interleave(groups, dim=1)
        v_CNH = v_PSKH[blocks_P].flatten(0, 1).repeat_interleave(groups, dim=1)
        for offset in range(length):
            end = context - length + offset + 1
            seen = slice(0 if window is None else max(0, end - window), end)
            scores_NC = torch.einsum("nh,cnh->nc", q_TNH[start + offset], k_CNH[seen]) / q_TNH.shape[-1] ** 0.5
            out_TNH[start + offset] = torch.einsum("nc,cnh->nh", scores_NC.softmax(-1), v_CNH[seen])
    return out_TNH
