"""One choice of an answer: the engine's tokens in, pieces of text out. Knows no HTTP and no JSON.

Stop strings are matched here, over text, for the engine knows none. Text that may be the beginning of a stop string
is held back until it is known not to be one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from ryzanstein_worker.engine.request import AddRequest, GoodEnd, TokenLogprobs, TokenOutput, finish_reason
from ryzanstein_worker.engine.status import EngineBusyError, GroupLostError
from ryzanstein_worker.server.errors import ApiError, engine_failed, engine_lost, not_started
from ryzanstein_worker.server.tokenizer import Detokenizer, Tokenizer
from ryzanstein_worker.telemetry.metrics import RequestTimer, ServerMetrics

_log = logging.getLogger(__name__)


class ScoredToken(msgspec.Struct, frozen=True):
    """A token with its log probability (natural, before temperature)."""

    text: str
    utf8: bytes
    logprob: float


class GeneratedToken(msgspec.Struct, frozen=True):
    """A generated token and the most likely ones at its place, the likeliest first."""

    chosen: ScoredToken
    top: tuple[ScoredToken, ...]
    offset: int  # characters of the texts of the choice's tokens before it


class Delta(msgspec.Struct, frozen=True):  # made for each token, and quicker so than as a frozen dataclass
    """What one step added to one choice. The last one carries `finish_reason`."""

    index: int
    text: str
    tokens: tuple[GeneratedToken, ...]  # empty unless logprobs were asked for
    token_ids: tuple[int, ...]  # generated, shown or not
    num_cached: int  # prompt tokens found in the prefix cache, of the whole request
    finish_reason: GoodEnd | None = None


class TokenSource(Protocol):
    """The part of the engine that a choice needs."""

    def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]: ...


class StopMatcher:
    """Finds the first stop string in a growing text. Text that it returned holds none and begins none."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string ended it (it is not part of the text)."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = self._beginning_of_a_stop()
        shown, self._held = self._held[:keep], self._held[keep:]
        return shown, False

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        shown, self._held = self._held, ""
        return shown

    def _beginning_of_a_stop(self) -> int:
        """The first position from which the held text might still grow into a stop string; its length if none."""
        longest = max(map(len, self._stops), default=0)
        for at in range(max(0, len(self._held) - longest + 1), len(self._held)):
            if any(stop.startswith(self._held[at:]) for stop in self._stops):
                return at
        return len(self._held)


class Choice:
    """The state of one choice: detokenizer, stop strings, and how many tokens there are."""

    def __init__(self, index: int, request: AddRequest, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.request = request
        self.finished = False
        self._index = index
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)
        self._stop_ids = frozenset(request.sampling.stop_token_ids)
        self._min_tokens = request.sampling.min_tokens
        self._num_tokens = 0
        self._is_scored = request.sampling.logprobs is not None
        self._offset = 0  # characters of all token texts
        self._num_cached: int | None = None  # as another replica counted, where one began

    def push(self, output: TokenOutput) -> Delta:
        """The delta of one output of the engine."""
        text, tokens, stopped = "", [], False
        used = 0
        for at, token_id in enumerate(output.token_ids):
            used += 1
            shown, stopped = self._add(token_id, hidden=token_id in self._stop_ids and output.finish_reason == "stop")
            text += shown
            if output.logprobs is not None:
                tokens.append(self._scored(token_id, output.logprobs[at]))
            if self._is_scored:
                self._offset += len(self._tokenizer.token_text(token_id))
            if stopped:
                break
        finish: GoodEnd | None = "stop" if stopped else None
        if not stopped and output.finish_reason in ("stop", "length"):
            finish = output.finish_reason
            text += self._matcher.flush()
        self.finished = finish is not None
        num_cached = output.num_cached_tokens if self._num_cached is None else self._num_cached
        return Delta(self._index, text, tuple(tokens), tuple(output.token_ids[:used]), num_cached, finish)

    def replay(self, num_cached: int) -> Delta:
        """Come to the state after the request's `output_token_ids`, which another replica has shown already.

        Returns what they amount to, without text. Raises ValueError where they go on past the choice's end.
        """
        token_ids, params = self.request.output_token_ids, self.request.sampling
        for count, token_id in enumerate(token_ids, 1):
            if self.finished:
                raise ValueError("tokens after the end")
            end = finish_reason(params, count, token_id)
            self.push(TokenOutput(request_id="", token_ids=[token_id], finish_reason=end))
        self._num_cached = num_cached
        return Delta(self._index, "", (), tuple(token_ids), num_cached)

    def _add(self, token_id: int, *, hidden: bool) -> tuple[str, bool]:
        self._num_tokens += 1
        if hidden:
            return "", False
        text = self._detokenizer.push(token_id)
        if self._num_tokens <= self._min_tokens:
            return text, False  # a stop string counts only in what comes after min_tokens
        return self._matcher.push(text) if text else ("", False)

    def _scored(self, token_id: int, scores: TokenLogprobs) -> GeneratedToken:
        def scored(an_id: int, logprob: float) -> ScoredToken:
            return ScoredToken(self._tokenizer.token_text(an_id), self._tokenizer.token_bytes(an_id), logprob)

        top = tuple(map(scored, scores.top_ids, scores.top_logprobs))
        return GeneratedToken(scored(token_id, scores.logprob), top, self._offset)


async def follow(engine: TokenSource, choice: Choice, metrics: ServerMetrics) -> AsyncGenerator[Delta, None]:
    """The deltas of one choice, the last with a finish reason. Closing it early aborts the engine's request.

    Raises:
        ApiError: the engine failed this request, or ended.
    """
    request = choice.request
    with metrics.request(request.arrival, len(request.prompt_token_ids)) as timer:
        if timer.sampled:
            request = msgspec.structs.replace(request, traced=True)
        try:
            async with aclosing(_outputs(engine, request)) as outputs:
                async for output in outputs:
                    if output.finish_reason == "error":
                        raise engine_failed()
                    if output.finish_reason == "abort":
                        raise engine_lost("crash")
                    delta = choice.push(output)
                    timer.tokens(len(delta.token_ids), output.first_scheduled, output.steps)
                    if delta.finish_reason is not None:
                        timer.finish(delta.finish_reason)
                    yield delta
                    if delta.finish_reason is not None:
                        return
            raise engine_lost("crash")
        except ApiError as error:
            _count(error, timer, request)
            raise


def _count(error: ApiError, timer: RequestTimer, request: AddRequest) -> None:
    """How the engine's word is counted."""
    if not error.started:
        timer.refuse()
        return
    if error.lost is not None:
        timer.abort(error.lost)
        return
    timer.finish("error")
    _log.warning("the engine did not complete a request", extra={"engine_request": request.request_id})


async def _outputs(engine: TokenSource, request: AddRequest) -> AsyncGenerator[TokenOutput, None]:
    """The engine's outputs, with its exceptions as answers to a client."""
    try:
        async with aclosing(engine.generate(request)) as outputs:
            async for output in outputs:
                yield output
    except EngineBusyError:
        raise not_started("overloaded", "Too many requests are waiting; try again.") from None
    except GroupLostError as error:
        if not error.started:
            raise not_started("draining", "This worker's engine has ended; try another.") from None
        # No culprit: it was stopped on purpose.
        raise engine_lost("drain" if error.lost.rank is None else "crash") from None


async def merge(choices: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """The deltas of all choices as they come; each choice's own in order. Closing it closes all."""
    if len(choices) == 1:
        async with aclosing(choices[0]) as deltas:
            async for delta in deltas:
                yield delta
        return
    queue: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_drain(choice, queue)) for choice in choices]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(choice: AsyncGenerator[Delta, None], queue: "asyncio.Queue[Delta | BaseException | None]") -> None:
    try:
        async with aclosing(choice) as deltas:
            async for delta in deltas:
                queue.put_nowait(delta)
    except Exception as error:  # handed to the one who merges, who raises it
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)
