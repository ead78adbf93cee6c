"""What the server asks of the engine, and what comes back. Token ids only: no text, no HTTP, no torch.

The engine's side of a request while it runs (its blocks, its progress) is `scheduler.Sequence`.
"""

from typing import Literal

import msgspec

GoodEnd = Literal["stop", "length"]
FinishReason = GoodEnd | Literal["abort", "error"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Every value is checked by the server before it comes here.

    A token depends on (logits, params, seed, position) alone and never on what else is in the batch, so a
    request can be preempted, recomputed or continued elsewhere and yields the same tokens.
    """

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0  # 64 bits; the server draws one where the client names none
    stop_token_ids: tuple[int, ...] = ()  # the model's end-of-sequence ids unless ignore_eos was asked for
    min_tokens: int = 0
    logprobs: int | None = None  # None: none; n: the chosen token's and those of the n most likely


def finish_reason(params: SamplingParams, num_output: int, token_id: int) -> GoodEnd | None:
    """Why `token_id`, the `num_output`th that was generated, is the last one; None where it is not."""
    if token_id in params.stop_token_ids and num_output > params.min_tokens:
        return "stop"
    return "length" if num_output >= params.max_tokens else None


class AddRequest(msgspec.Struct, frozen=True, kw_only=True, tag="add"):
    """Run this prompt. `request_id` is unique in the engine's life."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    output_token_ids: list[int] = []  # generated before, elsewhere: `sampling` counts them, no output repeats them
    cache_salt: bytes = b""  # tenant's salt: prefix blocks are shared only under equal salts
    arrival: float = 0.0  # time.monotonic() of the server process
    traced: bool = False  # its outputs tell which steps it took part in


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Forget this request and free its blocks. Unknown or finished ids are fine."""

    request_id: str


class TokenLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """log p of one generated token, and of the most likely ones in falling order (before temperature)."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class StepPart(msgspec.Struct, frozen=True, array_like=True):
    """A traced request's part in one step of the engine."""

    number: int  # of the step, from 1 since the start of the group
    requests: int  # in the step's batch
    step_tokens: int  # that the step computed for all of them
    tokens: int  # that it computed for this request
    begin: float  # time.monotonic() of the rank process
    seconds: float


class TokenOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step gave one request. The last one carries `finish_reason`."""

    request_id: str
    token_ids: list[int]  # new tokens only; a stop token is included, the server does not show it
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0  # prompt tokens that were found in the prefix cache
    error: str | None = None  # with finish_reason "error": a fixed sentence, never an exception's text
    first_scheduled: float | None = None  # time.monotonic() of the rank process: with the first output only
    steps: list[StepPart] = []  # of a traced request, since its last output
