"""Writes a step's keys and values into their slots of the paged cache. Plain torch, so there is no second variant."""

import torch


def store_kv(
    k_TKH: torch.Tensor,
    v_TKH: torch.Tensor,
    k_PSKH: torch.Tensor,
    v_PSKH: torch.Tensor,
    slots_T: torch.Tensor,
) -> None:
    """Token t's key and value go to slot `slots_T[t]` = block * S + offset (int64, unique within a step).

    What is not finite is stored as 0. Attention gathers whole blocks and masks what a query may not see, and a masked
    infinity is still NaN: one request's overflow must not reach the others in its batch, nor a block's next owner.
    """
    k_PSKH.flatten(0, 1).index_copy_(0, slots_T, k_TKH.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    v_PSKH.flatten(0, 1).index_copy_(0, slots_T, v_TKH.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
