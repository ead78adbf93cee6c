"""From a checked request to what the engine is to do: prompts times choices, each with its parameters and its state.

Knows OpenAI's requests and the engine's; knows no HTTP framework and runs nothing.
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ryzanstein_worker.engine.request import AddRequest, SamplingParams
from ryzanstein_worker.engine.status import ModelInfo
from ryzanstein_worker.server.errors import ApiError, context_exceeded
from ryzanstein_worker.server.generate import Choice, Delta
from ryzanstein_worker.server.openai import GenerationRequest
from ryzanstein_worker.server.render import ChatRenderer, CompletionRenderer, Head, Renderer, Tally
from ryzanstein_worker.server.resume import Resume, malformed
from ryzanstein_worker.server.tokenizer import Tokenizer

_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True)
class Caller:
    """What a request brought along outside its body."""

    arrival: float  # time.monotonic() at which its head was read
    cache_salt: bytes = b""
    fingerprint: bytes = b""  # of what the client sent (quarantine.py); empty: crashes are not laid to it


@dataclass(frozen=True)
class Run:
    """A request that passed every check. To be run once: its choices have a state."""

    id: str
    created: int  # Unix seconds
    seed: int  # of the first choice; the next ones count up
    choices: tuple[Choice, ...]
    choices_per_prompt: int
    renderer: Renderer
    prompt_tokens: int
    include_usage: bool
    fingerprint: bytes = b""
    replayed: tuple[Delta, ...] = ()  # what another replica has shown, by choice

    def tally(self) -> Tally:
        """The counts so far."""
        tally = Tally(self.prompt_tokens)
        for delta in self.replayed:
            tally.add(delta, self.choices_per_prompt)
        return tally


@dataclass(frozen=True)
class RunBuilder:
    """Makes the runs of one served model."""

    name: str
    info: ModelInfo
    tokenizer: Tokenizer

    def build(
        self,
        request: GenerationRequest,
        prompts: Sequence[list[int]],
        caller: Caller,
        *,
        created: int,
        chat: bool,
        resume: Resume | None,
    ) -> Run:
        """The run of a request, brought to the state of `resume` if there is one. Raises ApiError.

        Takes microseconds a resumed token: belongs into a thread where these are many.
        """
        seed = secrets.randbits(63) if request.seed is None else request.seed & _SEED_MASK
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        if resume is not None:
            _check(resume, request, len(prompts), chat=chat)
            answer_id, seed = resume.id, resume.seed
        choices = self._choices(request, prompts, caller, seed, resume)
        head = Head(
            answer_id,
            created,
            self.name,
            scored=request.num_logprobs is not None,
            include_usage=request.include_usage,
        )
        return Run(
            answer_id,
            created,
            seed,
            choices,
            request.num_choices,
            ChatRenderer(head) if chat else CompletionRenderer(head),
            sum(map(len, prompts)),
            request.include_usage,
            caller.fingerprint,
            _replay(choices, resume) if resume is not None else (),
        )

    def _choices(
        self,
        request: GenerationRequest,
        prompts: Sequence[list[int]],
        caller: Caller,
        seed: int,
        resume: Resume | None,
    ) -> tuple[Choice, ...]:
        run_id = uuid.uuid4().hex  # not the answer's: what is resumed may still be ending here
        choices: list[Choice] = []
        for prompt in prompts:
            max_tokens = self._max_tokens(request, len(prompt))
            for number in range(request.num_choices):
                index = len(choices)
                add = AddRequest(
                    request_id=f"{run_id}-{index}",
                    prompt_token_ids=prompt,
                    sampling=self._sampling(request, max_tokens, seed + number),
                    output_token_ids=[] if resume is None else resume.choices[index].token_ids,
                    cache_salt=caller.cache_salt,
                    arrival=caller.arrival,
                )
                self._check_output(add)
                choices.append(Choice(index, add, self.tokenizer, request.stops))
        return tuple(choices)

    def _check_output(self, add: AddRequest) -> None:
        output = add.output_token_ids
        if output and (max(output) >= self.info.vocab_size or len(output) > add.sampling.max_tokens):
            raise malformed()

    def _max_tokens(self, request: GenerationRequest, num_prompt: int) -> int:
        """How many tokens may be generated: what was asked for if it fits the context, else what is left."""
        limit = self.info.max_model_len
        if num_prompt == 0:
            raise ApiError(400, "The prompt is empty.", param="prompt", code="invalid_value")
        if num_prompt >= limit:
            raise context_exceeded(limit, num_prompt, None)
        asked, left = request.completion_limit, limit - num_prompt
        if asked is not None and asked > left and request.names_a_limit:
            raise context_exceeded(limit, num_prompt, asked)
        allowed = left if asked is None else min(asked, left)
        if (request.min_tokens or 0) > allowed:
            raise context_exceeded(limit, num_prompt, request.min_tokens)
        return allowed

    def _sampling(self, request: GenerationRequest, max_tokens: int, seed: int) -> SamplingParams:
        def given(value: float | None, default: float) -> float:
            return default if value is None else value

        vocab_size = self.info.vocab_size
        eos = () if request.ignore_eos else self.tokenizer.eos_token_ids
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=given(request.temperature, 1.0),
            top_p=given(request.top_p, 1.0),
            top_k=min(max(request.top_k or 0, 0), vocab_size),
            min_p=given(request.min_p, 0.0),
            presence_penalty=given(request.presence_penalty, 0.0),
            frequency_penalty=given(request.frequency_penalty, 0.0),
            seed=seed & _SEED_MASK,
            stop_token_ids=tuple(token for token in eos if token < vocab_size),
            min_tokens=request.min_tokens or 0,
            logprobs=None if request.num_logprobs is None else min(request.num_logprobs, vocab_size),
        )


def _check(resume: Resume, request: GenerationRequest, num_prompts: int, *, chat: bool) -> None:
    """Whether a state is one of this request's. Raises ApiError."""
    fits = (
        request.stream
        and resume.id.startswith("chatcmpl-") == chat
        and len(resume.choices) == num_prompts * request.num_choices
        and (request.seed is None or request.seed & _SEED_MASK == resume.seed)
    )
    if not fits:
        raise malformed()


def _replay(choices: Sequence[Choice], resume: Resume) -> tuple[Delta, ...]:
    replayed: list[Delta] = []
    for choice, known in zip(choices, resume.choices, strict=True):
        if known.num_cached > len(choice.request.prompt_token_ids):
            raise malformed()
        if not known.token_ids:
            continue
        try:
            replayed.append(choice.replay(known.num_cached))
        except ValueError:
            raise malformed() from None
    return tuple(replayed)
