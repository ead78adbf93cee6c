"""One served model: a checked request in, a stream of answers out. Joins tokenizer, template, engine and renderer.

Knows OpenAI's requests and the engine's; knows no HTTP framework.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Protocol

import msgspec

from ryzanstein_worker.engine.request import AddRequest, TokenOutput
from ryzanstein_worker.engine.status import EngineHealth, EngineStats, ModelInfo
from ryzanstein_worker.server.chat_template import ChatTemplate, Turn
from ryzanstein_worker.server.errors import ApiError, context_exceeded, model_not_found
from ryzanstein_worker.server.generate import Delta, follow, merge
from ryzanstein_worker.server.openai import ChatCompletionRequest, CompletionRequest, GenerationRequest
from ryzanstein_worker.server.quarantine import Hold, Quarantine
from ryzanstein_worker.server.responses import Answer, Model, Whole
from ryzanstein_worker.server.resume import Resume
from ryzanstein_worker.server.run import Caller, Run, RunBuilder
from ryzanstein_worker.server.tokenizer import Tokenizer
from ryzanstein_worker.telemetry.metrics import ServerMetrics

__all__ = ["Caller", "EngineLike", "Piece", "Run", "Service"]

INLINE_CHARS = 4096
"""Texts up to this length are tokenized on the event loop: quicker than handing them to a thread."""
INLINE_TOKENS = 512
"""As many tokens of a stream that is continued are replayed on the event loop; more in a thread."""


class EngineLike(Protocol):
    """What the server uses of the engine."""

    @property
    def info(self) -> ModelInfo: ...
    def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]: ...
    def health(self) -> EngineHealth: ...
    def stats(self) -> EngineStats: ...


class Piece(msgspec.Struct, frozen=True):
    """What leaves in one go: the answers (possibly none) that a delta gave. Without a delta: the closing usage."""

    answers: list[Answer]
    delta: Delta | None = None


class Service:
    """Serves one model under one name."""

    def __init__(
        self,
        name: str,
        engine: EngineLike,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        metrics: ServerMetrics,
        quarantine: Quarantine,
    ) -> None:
        self.name = name
        self.engine = engine
        self.created = int(time.time())
        self._tokenizer = tokenizer
        self._template = template
        self._metrics = metrics
        self._quarantine = quarantine
        self._builder = RunBuilder(name, engine.info, tokenizer)

    async def completion(self, request: CompletionRequest, caller: Caller, resume: Resume | None = None) -> Run:
        """Check a completion request against the model. Raises ApiError."""
        self._check(request, caller)
        prompts = [await self._token_ids(prompt) for prompt in request.prompts]
        return await self._run(request, prompts, caller, int(time.time()), resume, chat=False)

    async def chat(self, request: ChatCompletionRequest, caller: Caller, resume: Resume | None = None) -> Run:
        """Check a chat request against the model and its template. Raises ApiError."""
        self._check(request, caller)
        turns = [
            Turn(role=message.role, content=message.text, name=message.name, tool_call_id=message.tool_call_id)
            for message in request.messages
        ]
        created = int(time.time()) if resume is None else resume.created
        text = await self._template.render(turns, now=created)
        # The template wrote the special tokens that the model wants; more would be added twice.
        prompt = await self._encode(text, add_special_tokens=False)
        return await self._run(request, [prompt], caller, created, resume, chat=True)

    async def stream(self, run: Run) -> AsyncGenerator[Piece, None]:
        """The chunks of an answer, delta by delta. Closing it early aborts the work. Raises ApiError."""
        tally = run.tally()
        opened = bool(run.replayed)
        async with self._running(run) as (deltas, hold):
            async for delta in deltas:
                answers = run.renderer.chunks(delta)
                if not opened:
                    opened = True
                    answers = [*run.renderer.opening(len(run.choices)), *answers]
                tally.add(delta, run.choices_per_prompt)
                hold.tokens(len(delta.token_ids))
                yield Piece(answers, delta)
        if run.include_usage:
            yield Piece([run.renderer.last(tally.usage())])

    async def whole(self, run: Run) -> Whole:
        """The answer in one piece. Raises ApiError."""
        tally = run.tally()
        kept: list[Delta] = []
        async with self._running(run) as (deltas, hold):
            async for delta in deltas:
                tally.add(delta, run.choices_per_prompt)
                hold.tokens(len(delta.token_ids))
                kept.append(delta)
        return run.renderer.whole(kept, len(run.choices), tally.usage())

    @asynccontextmanager
    async def _running(self, run: Run) -> AsyncIterator[tuple[AsyncGenerator[Delta, None], Hold]]:
        unfinished = [choice for choice in run.choices if not choice.finished]
        with self._quarantine.watch(run.fingerprint) as hold:
            async with aclosing(merge([follow(self.engine, choice, self._metrics) for choice in unfinished])) as deltas:
                yield deltas, hold

    def refused(self, error: ApiError) -> None:
        """A request is answered with an error: counted, unless something of it ran, which counts by its end."""
        if not error.started:
            self._metrics.refused(error.refused)

    def model(self) -> Model:
        """What there is to be said of the model."""
        return Model(
            id=self.name,
            object="model",
            created=self.created,
            owned_by="ryzanstein",
            max_model_len=self.engine.info.max_model_len,
        )

    def _check(self, request: GenerationRequest, caller: Caller) -> None:
        if request.model != self.name:
            raise model_not_found(self.name)
        self._quarantine.check(caller.fingerprint)

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

    async def _run(
        self,
        request: GenerationRequest,
        prompts: Sequence[list[int]],
        caller: Caller,
        created: int,
        resume: Resume | None,
        *,
        chat: bool,
    ) -> Run:
        created = created if resume is None else resume.created
        build = partial(self._builder.build, request, prompts, caller, created=created, chat=chat, resume=resume)
        if resume is None or sum(len(choice.token_ids) for choice in resume.choices) <= INLINE_TOKENS:
            return build()
        return await asyncio.to_thread(build)
