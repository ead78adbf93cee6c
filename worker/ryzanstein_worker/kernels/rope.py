"""Rotates query and key heads by their positions. Plain torch; `rope_reference` is the definition."""

import torch


def rope(x_TNH: torch.Tensor, cos_T1H: torch.Tensor, sin_T1H: torch.Tensor) -> torch.Tensor:
    """Rotate each head (halves, not pairs). The sine's first half comes negated, which saves building (-b, a)."""
    return torch.addcmul(x_TNH * cos_T1H, x_TNH.roll(x_TNH.shape[-1] // 2, dims=-1), sin_T1H)


def rope_reference(x_TNH: torch.Tensor, angles_TF: torch.Tensor) -> torch.Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin), where a and b are a head's halves and F = H / 2."""
    a, b = x_TNH.chunk(2, dim=-1)
    cos, sin = angles_TF.cos()[:, None], angles_TF.sin()[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
