"""Logits to tokens. Stateless: a token depends on its row of logits, its parameters, its seed and its position alone.

No generator keeps state between steps and no row looks at another, so a request that is preempted, recomputed, moved
or batched otherwise yields the same tokens. Shape letters: N rows, V vocabulary, K kept logprobs.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from ryzanstein_worker.engine.request import SamplingParams, TokenLogprobs

_MASK = (1 << 64) - 1
_GREEDY_BELOW = 1e-5  # a temperature this small is greedy but for overflow


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row's parameters and the tokens it has generated so far."""

    params: SamplingParams
    position: int  # of the token to draw, counted from the prompt's first token
    output_ids: list[int]


@dataclass(frozen=True, slots=True)
class Sampled:
    """token_id is None where the row's logits hold no valid distribution."""

    token_id: int | None
    logprobs: TokenLogprobs | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), by counter: splitmix64's output function (Steele, Lea, Flood 2014) over seed and position."""
    return (_mix(_mix(seed) + 0x9E3779B97F4A7C15 * (position + 1)) >> 11) / (1 << 53)


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@torch.inference_mode()
def sample(logits_NV: torch.Tensor, rows: list[SamplingRow]) -> list[Sampled]:
    """Draw one token for each row. Any floating dtype in; float32 (and float64 for the sums) within."""
    raw_NV = logits_NV.float()
    shaped_NV = _shape(raw_NV, rows)
    best_N, greedy_N = shaped_NV.max(dim=-1)
    token_ids = greedy_N.tolist()
    valid = best_N.isfinite().tolist()
    plain = [
        n for n, row in enumerate(rows) if valid[n] and not _is_greedy(row.params) and not _is_filtered(row.params)
    ]
    filtered = [n for n, row in enumerate(rows) if valid[n] and not _is_greedy(row.params) and _is_filtered(row.params)]
    for members, draw in ((plain, _draw_plain), (filtered, _draw_filtered)):
        if members:
            drawn = draw(_scaled(shaped_NV[members], [rows[n] for n in members]), [rows[n] for n in members])
            for n, token_id in zip(members, drawn, strict=True):
                token_ids[n] = token_id
    logprobs = _logprobs(raw_NV, rows, token_ids, valid)
    return [Sampled(token_ids[n], logprobs.get(n)) if valid[n] else Sampled(None) for n in range(len(rows))]


def _is_greedy(params: SamplingParams) -> bool:
    return params.temperature < _GREEDY_BELOW


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _shape(raw_NV: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Apply penalties and min_tokens; the input itself where no row asks for either."""
    shaped_NV = raw_NV
    for n, row in enumerate(rows):
        params = row.params
        penalised = bool(row.output_ids) and (params.presence_penalty != 0 or params.frequency_penalty != 0)
        too_short = len(row.output_ids) < params.min_tokens and bool(params.stop_token_ids)
        if not penalised and not too_short:
            continue
        if shaped_NV is raw_NV:
            shaped_NV = raw_NV.clone()
        if penalised:  # OpenAI: logit -= count * frequency + (count > 0) * presence, over the output alone
            counts = Counter(row.output_ids)
            counts_K = torch.tensor(list(counts.values()), device=raw_NV.device)
            shaped_NV[n, list(counts)] -= counts_K * params.frequency_penalty + params.presence_penalty
        if too_short:
            shaped_NV[n, list(params.stop_token_ids)] = -torch.inf
    return shaped_NV


def _scaled(shaped_NV: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Divide by temperature. The maximum is taken off first, so that a small temperature cannot overflow."""
    temperature_N = torch.tensor([row.params.temperature for row in rows], device=shaped_NV.device)
    return (shaped_NV - shaped_NV.amax(dim=-1, keepdim=True)) / temperature_N[:, None]


def _draw_plain(scaled_NV: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    return _invert(scaled_NV.double().exp(), rows).tolist()


def _draw_filtered(scaled_NV: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    """min_p, then top_k, then top_p over what top_k left: vLLM's order."""
    device = scaled_NV.device
    sorted_NV, order_NV = scaled_NV.sort(dim=-1, descending=True, stable=True)
    weights_NV = sorted_NV.double().exp()  # the first is 1: the maximum was taken off
    size = weights_NV.shape[-1]
    min_p_N = torch.tensor([row.params.min_p for row in rows], dtype=torch.float64, device=device)
    top_k_N = torch.tensor([min(row.params.top_k or size, size) for row in rows], device=device)
    top_p_N = torch.tensor([row.params.top_p for row in rows], dtype=torch.float64, device=device)
    weights_NV[weights_NV < min_p_N[:, None]] = 0
    weights_NV[torch.arange(size, device=device) >= top_k_N[:, None]] = 0
    sums_NV = weights_NV.cumsum(dim=-1)
    # Keep a token while those before it have not reached top_p; the first always stays.
    weights_NV[(sums_NV - weights_NV >= top_p_N[:, None] * sums_NV[:, -1:]) & (top_p_N < 1.0)[:, None]] = 0
    return order_NV.gather(-1, _invert(weights_NV, rows)[:, None])[:, 0].tolist()


def _invert(weights_NV: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """The inverse of each row's cumulative distribution at the row's one number. Never a weight of 0."""
    sums_NV = weights_NV.cumsum(dim=-1)
    drawn_N = torch.tensor(
        [uniform(row.params.seed, row.position) for row in rows], dtype=torch.float64, device=weights_NV.device
    )
    targets_N1 = (drawn_N * sums_NV[:, -1])[:, None]
    picked_N = torch.searchsorted(sums_NV, targets_N1, right=True)[:, 0]
    # Rounding may carry the target to the very end, past the last token that has weight.
    last_N = (sums_NV < sums_NV[:, -1:]).sum(dim=-1)
    return torch.minimum(picked_N, last_N)


def _logprobs(
    raw_NV: torch.Tensor, rows: list[SamplingRow], token_ids: list[int], valid: list[bool]
) -> dict[int, TokenLogprobs]:
    """Of the raw distribution, before penalties and temperature; for the rows that ask."""
    members = [n for n, row in enumerate(rows) if row.params.logprobs is not None and valid[n]]
    found: dict[int, TokenLogprobs] = {}
    for n in members:
        logprobs_V = raw_NV[n].log_softmax(dim=-1)
        count = min(rows[n].params.logprobs or 0, len(logprobs_V))
        top_K, ids_K = logprobs_V.topk(count)
        found[n] = TokenLogprobs(
            logprob=float(logprobs_V[token_ids[n]]), top_ids=ids_K.tolist(), top_logprobs=top_K.tolist()
        )
    return found
