"""One served model: a checked request in, a stream of answers out. Joins tokenizer, template, engine and renderer.

Knows OpenAI's requests and the engine's; knows no HTTP framework.
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from ryzanstein_worker.engine.request import AddRequest, SamplingParams, TokenOutput
from ryzanstein_worker.engine.status import EngineHealth, EngineStats, ModelInfo
from ryzanstein_worker.server.chat_template import ChatTemplate, Turn
from ryzanstein_worker.server.errors import ApiError, context_exceeded, model_not_found
from ryzanstein_worker.server.generate import Delta, follow, merge
from ryzanstein_worker.server.openai import ChatCompletionRequest, CompletionRequest, GenerationRequest
from ryzanstein_worker.server.render import ChatRenderer, CompletionRenderer, Head, Renderer, Tally
from ryzanstein_worker.server.responses import Answer
from ryzanstein_worker.server.tokenizer import Tokenizer
from ryzanstein_worker.telemetry.metrics import ServerMetrics

INLINE_CHARS = 4096
"""Texts up to this length are tokenized on the event loop: quicker than handing them to a thread."""


class EngineLike(Protocol):
    """What the server uses of the engine."""

    @property
    def info(self) -> ModelInfo: ...
    def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]: ...
    def health(self) -> EngineHealth: ...
    def stats(self) -> EngineStats: ...


@dataclass(frozen=True)
class Caller:
    """What a request brought along outside its body."""

    arrival: float  # time.monotonic() at which its head was read
    cache_salt: bytes = b""


@dataclass(frozen=True)
class Run:
    """A request that passed every check: what the engine is to do and how it is told."""

    engine_requests: tuple[AddRequest, ...]
    stops: tuple[str, ...]
    choices_per_prompt: int
    renderer: Renderer
    prompt_tokens: int
    include_usage: bool


class Service:
    """Serves one model under one name."""

    def __init__(
        self, name: str, engine: EngineLike, tokenizer: Tokenizer, template: ChatTemplate, metrics: ServerMetrics
    ) -> None:
        self.name = name
        self.engine = engine
        self.created = int(time.time())
        self._tokenizer = tokenizer
        self._template = template
        self._metrics = metrics

    async def completion(self, request: CompletionRequest, caller: Caller) -> Run:
        """Check a completion request against the model. Raises ApiError."""
        self._check_model(request)
        prompts = [await self._token_ids(prompt) for prompt in request.prompts]
        return self._run(request, prompts, caller, chat=False)

    async def chat(self, request: ChatCompletionRequest, caller: Caller) -> Run:
        """Check a chat request against the model and its template. Raises ApiError."""
        self._check_model(request)
        turns = [
            Turn(role=message.role, content=message.text, name=message.name, tool_call_id=message.tool_call_id)
            for message in request.messages
        ]
        text = await self._template.render(turns)
        # The template wrote the special tokens that the model wants; more would be added twice.
        return self._run(request, [await self._encode(text, add_special_tokens=False)], caller, chat=True)

    async def stream(self, run: Run) -> AsyncGenerator[Answer, None]:
        """The chunks of an answer. Closing it early aborts the work. Raises ApiError."""
        tally = Tally(run.prompt_tokens)
        async with aclosing(self._deltas(run)) as deltas:
            opened = False
            async for delta in deltas:
                if not opened:
                    opened = True
                    for answer in run.renderer.opening(len(run.engine_requests)):
                        yield answer
                tally.add(delta, run.choices_per_prompt)
                for answer in run.renderer.chunks(delta):
                    yield answer
        if run.include_usage:
            yield run.renderer.last(tally.usage())

    async def whole(self, run: Run) -> Answer:
        """The answer in one piece. Raises ApiError."""
        tally = Tally(run.prompt_tokens)
        kept: list[Delta] = []
        async with aclosing(self._deltas(run)) as deltas:
            async for delta in deltas:
                tally.add(delta, run.choices_per_prompt)
                kept.append(delta)
        return run.renderer.whole(kept, len(run.engine_requests), tally.usage())

    def _deltas(self, run: Run) -> AsyncGenerator[Delta, None]:
        return merge(
            [
                follow(self.engine, index, request, self._tokenizer, run.stops, self._metrics)
                for index, request in enumerate(run.engine_requests)
            ]
        )

    def _check_model(self, request: GenerationRequest) -> None:
        if request.model != self.name:
            raise model_not_found(self.name)

    async def _token_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return await self._encode(prompt, add_special_tokens=True)
        if max(prompt) >= self.engine.info.vocab_size:
            raise ApiError(
                400, "'prompt' holds a token id outside the model's vocabulary.", param="prompt", code="invalid_value"
            )
        return prompt

    async def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        least, limit = self._tokenizer.least_tokens(text), self.engine.info.max_model_len
        if least > limit:  # known without the work of tokenizing it
            raise context_exceeded(limit, least, None, at_least=True)
        if len(text) <= INLINE_CHARS:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def _run(self, request: GenerationRequest, prompts: Sequence[list[int]], caller: Caller, *, chat: bool) -> Run:
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        head = Head(
            answer_id,
            int(time.time()),
            self.name,
            scored=request.num_logprobs is not None,
            include_usage=request.include_usage,
        )
        seed = secrets.randbits(63) if request.seed is None else request.seed
        engine_requests: list[AddRequest] = []
        for prompt in prompts:
            max_tokens = self._max_tokens(request, len(prompt))
            for choice in range(request.num_choices):
                engine_requests.append(
                    AddRequest(
                        request_id=f"{answer_id}-{len(engine_requests)}",
                        prompt_token_ids=prompt,
                        sampling=self._sampling(request, max_tokens, seed + choice),
                        cache_salt=caller.cache_salt,
                        arrival=caller.arrival,
                    )
                )
        return Run(
            tuple(engine_requests),
            request.stops,
            request.num_choices,
            ChatRenderer(head) if chat else CompletionRenderer(head),
            sum(map(len, prompts)),
            request.include_usage,
        )

    def _max_tokens(self, request: GenerationRequest, num_prompt: int) -> int:
        """How many tokens may be generated: what was asked for if it fits the context, else what is left."""
        limit = self.engine.info.max_model_len
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

        vocab_size = self.engine.info.vocab_size
        eos = () if request.ignore_eos else self._tokenizer.eos_token_ids
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=given(request.temperature, 1.0),
            top_p=given(request.top_p, 1.0),
            top_k=min(max(request.top_k or 0, 0), vocab_size),
            min_p=given(request.min_p, 0.0),
            presence_penalty=given(request.presence_penalty, 0.0),
            frequency_penalty=given(request.frequency_penalty, 0.0),
            seed=seed & ((1 << 63) - 1),
            stop_token_ids=tuple(token for token in eos if token < vocab_size),
            min_tokens=request.min_tokens or 0,
            logprobs=None if request.num_logprobs is None else min(request.num_logprobs, vocab_size),
        )
