"""Rotary positions: inverse frequencies for every rope type, and the cosines and sines of one step.

Sources: RoFormer (arXiv 2104.09864), NTK-aware scaling, YaRN (2309.00071), LongRoPE (2402.13753), Llama 3.1's scaling;
each in the form that transformers gives it.

`dynamic` and `longrope` depend on how long the sequence is. Here that length is the longest sequence the engine admits
(max_model_len), for all sequences alike: a key that was rotated once stays right, so that chunked prefill, prefix
reuse, preemption and the company in a batch cannot change a token. It equals transformers' forward over a sequence of
max_model_len tokens (dynamic), or over any on the same side of original_max_position_embeddings (longrope).
"""

import math

import torch

from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.rope_config import RopeConfig


class Rotary:
    """Holds head_dim / 2 frequencies; cosines are computed per step, so no table grows with the context."""

    def __init__(self, config: ModelConfig, *, max_model_len: int, device: torch.device) -> None:
        inv_freq, self._scale = inverse_frequencies(
            config.rope,
            config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            max_model_len=max_model_len,
        )
        self._inv_freq = inv_freq.to(device)

    def cos_sin(self, positions_T: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, 1, H] each, scaled by the attention factor; the sine's first half is negated, as kernels.rope wants."""
        angles_TF = positions_T[:, None].float() * self._inv_freq
        cos_TF, sin_TF = angles_TF.cos() * self._scale, angles_TF.sin() * self._scale
        cos_TH = torch.cat((cos_TF, cos_TF), dim=-1).to(dtype)
        sin_TH = torch.cat((-sin_TF, sin_TF), dim=-1).to(dtype)
        return cos_TH[:, None], sin_TH[:, None]


def inverse_frequencies(
    rope: RopeConfig, head_dim: int, *, max_position_embeddings: int, max_model_len: int
) -> tuple[torch.Tensor, float]:
    """float32 [head_dim / 2], and the factor that cosines and sines are multiplied by."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inv_freq = 1.0 / rope.rope_theta**exponents
    match rope.rope_type:
        case "default":
            return inv_freq, 1.0
        case "linear":
            return inv_freq / rope.factor, 1.0
        case "dynamic":
            stretch = max(max_model_len, max_position_embeddings) / max_position_embeddings
            power = head_dim / (head_dim - 2)
            theta = rope.rope_theta * (rope.factor * stretch - (rope.factor - 1)) ** power
            return 1.0 / theta**exponents, 1.0
        case "yarn":
            return _yarn(rope, inv_freq, head_dim), _yarn_attention_factor(rope)
        case "longrope":
            is_long = max_model_len > rope.original_max_position_embeddings
            factors = torch.tensor(rope.long_factor if is_long else rope.short_factor, dtype=torch.float32)
            return inv_freq / factors, _longrope_attention_factor(rope)
        case "llama3":
            return _llama3(rope, inv_freq), 1.0


def _yarn(rope: RopeConfig, inv_freq: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Fast dimensions keep their frequency, slow ones are interpolated, those between are mixed along a ramp."""

    def dimension_of(rotations: float) -> float:
        length = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = (high - low) or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return inv_freq / rope.factor * ramp + inv_freq * (1 - ramp)


def _yarn_attention_factor(rope: RopeConfig) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)


def _longrope_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_position_embeddings))


def _llama3(rope: RopeConfig, inv_freq: torch.Tensor) -> torch.Tensor:
    """Wavelengths beyond the trained length are stretched, short ones kept, those between mixed smoothly."""
    rotations = rope.original_max_position_embeddings * inv_freq / (2 * math.pi)
    smooth = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq
