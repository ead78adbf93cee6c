"""The gated activations of an MLP over packed gate and up halves. Plain torch, so there is no second variant."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
}
"""By config.json's `hidden_act`."""


def act_and_mul(gate_up_TF: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """act(gate) * up: [T, 2 * F] -> [T, F]. With silu this is SwiGLU (arXiv 2002.05202)."""
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
    return act(gate_TF).mul_(up_TF)
