"""Which requests the engine refuses outright, in fixed sentences. Plain numbers; every rank decides alike.

The server checks the same earlier and in the client's words; this is the guard that keeps one bad request from
breaking a step that it shares with others.
"""

import math
from dataclasses import dataclass

from ryzanstein_worker.engine.request import AddRequest, SamplingParams


@dataclass(frozen=True)
class Limits:
    """What the loaded model and its KV cache can take. All in tokens, but for the blocks."""

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_kv_blocks: int
    block_size: int

    def __post_init__(self) -> None:
        # Otherwise some running sequence would starve, or one alone in the engine would preempt itself for ever.
        assert self.max_num_batched_tokens >= self.max_num_seqs, "a step must hold one token of each sequence"
        assert self.num_kv_blocks * self.block_size >= self.max_model_len, "the longest sequence must fit alone"


def refusal(request: AddRequest, limits: Limits) -> str | None:
    """The sentence that says why this request can never run, or None."""
    prompt = request.prompt_token_ids
    if not prompt:
        return "The prompt is empty."
    if len(prompt) >= limits.max_model_len:
        return "The prompt leaves no room for output within the model's context length."
    if min(prompt) < 0 or max(prompt) >= limits.vocab_size:
        return "The prompt holds a token id outside the model's vocabulary."
    if not _usable(request.sampling, limits.vocab_size):
        return "The sampling parameters are out of range."
    return _unfit_output(request, limits) if request.output_token_ids else None


def _unfit_output(request: AddRequest, limits: Limits) -> str | None:
    """What speaks against going on behind tokens that another engine generated."""
    output = request.output_token_ids
    if min(output) < 0 or max(output) >= limits.vocab_size:
        return "The output so far holds a token id outside the model's vocabulary."
    if len(request.prompt_token_ids) + len(output) >= limits.max_model_len:
        return "The output so far leaves no room for more within the model's context length."
    if len(output) >= request.sampling.max_tokens:
        return "The output so far is all that was asked for."
    return None


def _usable(params: SamplingParams, vocab_size: int) -> bool:
    numbers = (params.temperature, params.top_p, params.min_p, params.presence_penalty, params.frequency_penalty)
    return (
        all(math.isfinite(number) for number in numbers)
        and params.temperature >= 0
        and 0 < params.top_p <= 1
        and 0 <= params.min_p <= 1
        and params.top_k >= 0
        and params.max_tokens >= 1
        and params.min_tokens >= 0
        and all(0 <= token < vocab_size for token in params.stop_token_ids)
        and (params.logprobs is None or params.logprobs >= 0)
    )
