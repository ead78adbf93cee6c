"""Root-mean-square norm (arXiv 1910.07467), alone and fused with the residual sum. torch's own op is the fast one."""

import torch
import torch.nn.functional as F


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return F.rms_norm(x_TD, weight_D.shape, weight_D, eps)


def add_rms_norm(
    x_TD: torch.Tensor, residual_TD: torch.Tensor, weight_D: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(norm(x + residual), x + residual). The sum is written into `x`, which must be the caller's own."""
    x_TD += residual_TD
    return rms_norm(x_TD, weight_D, eps), x_TD


def rms_norm_reference(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """The definition, in float32."""
    x = x_TD.float()
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight_D.float()).to(x_TD.dtype)
