"""Deltas into OpenAI's answers: completions and chat, whole or chunk by chunk. Pure; knows no engine, no HTTP."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ryzanstein_worker.server import responses as wire
from ryzanstein_worker.server.generate import Delta, GeneratedToken, ScoredToken


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of one answer share."""

    id: str
    created: int  # Unix seconds
    model: str
    scored: bool  # logprobs were asked for
    include_usage: bool  # chunks carry a usage field, null but in the last


@dataclass(slots=True)
class Tally:
    """Counts tokens for `usage` as deltas pass by."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)  # prompt's index -> tokens found in the prefix cache

    def add(self, delta: Delta, choices_per_prompt: int) -> None:
        self.completion_tokens += len(delta.token_ids)
        prompt = delta.index // choices_per_prompt
        # The choices of one prompt run it each on its own; the client sent it once, so the first counts.
        if delta.index % choices_per_prompt == 0:
            self.cached[prompt] = max(self.cached.get(prompt, 0), delta.num_cached)

    def usage(self) -> wire.Usage:
        return wire.Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=wire.PromptTokensDetails(cached_tokens=sum(self.cached.values())),
        )


class Renderer(Protocol):
    """One API's shape of answers."""

    def opening(self, num_choices: int) -> list[wire.Answer]:
        """Chunks that come before any text."""
        ...

    def chunks(self, delta: Delta) -> list[wire.Answer]:
        """The chunks of a delta; none where it has nothing to show."""
        ...

    def last(self, usage: wire.Usage) -> wire.Answer:
        """The chunk that carries the usage and no choice."""
        ...

    def whole(self, deltas: Sequence[Delta], num_choices: int, usage: wire.Usage) -> wire.Whole:
        """The answer in one piece."""
        ...


class CompletionRenderer:
    """/v1/completions."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def opening(self, num_choices: int) -> list[wire.Answer]:
        return []

    def chunks(self, delta: Delta) -> list[wire.Answer]:
        if not (delta.text or delta.tokens or delta.finish_reason):
            return []
        answer = self._answer([self._choice(delta.index, [delta])])
        return [answer.model_copy(update={"usage": None}) if self._head.include_usage else answer]

    def last(self, usage: wire.Usage) -> wire.Answer:
        return self._answer([]).model_copy(update={"usage": usage})

    def whole(self, deltas: Sequence[Delta], num_choices: int, usage: wire.Usage) -> wire.Whole:
        choices = [self._choice(index, own) for index, own in enumerate(_by_choice(deltas, num_choices))]
        return self._answer(choices).model_copy(update={"usage": usage})

    def _answer(self, choices: list[wire.CompletionChoice]) -> wire.Completion:
        head = self._head
        return wire.Completion(
            id=head.id, object="text_completion", created=head.created, model=head.model, choices=choices
        )

    def _choice(self, index: int, deltas: Sequence[Delta]) -> wire.CompletionChoice:
        tokens = [token for delta in deltas for token in delta.tokens]
        return wire.CompletionChoice(
            index=index,
            text="".join(delta.text for delta in deltas),
            logprobs=self._logprobs(tokens) if self._head.scored else None,
            finish_reason=deltas[-1].finish_reason,
        )

    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> wire.CompletionLogprobs:
        return wire.CompletionLogprobs(
            tokens=[token.chosen.text for token in tokens],
            token_logprobs=[token.chosen.logprob for token in tokens],
            # As OpenAI: the chosen token is there even when it is not among the likeliest.
            top_logprobs=[{t.text: t.logprob for t in (token.chosen, *token.top)} for token in tokens],
            text_offset=[token.offset for token in tokens],
        )


class ChatRenderer:
    """/v1/chat/completions."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def opening(self, num_choices: int) -> list[wire.Answer]:
        first = wire.ChatDelta(role="assistant", content="")
        return [self._chunk([self._part(index, first, (), None)]) for index in range(num_choices)]

    def chunks(self, delta: Delta) -> list[wire.Answer]:
        answers: list[wire.Answer] = []
        if delta.text or delta.tokens:
            text = wire.ChatDelta(content=delta.text)
            answers.append(self._chunk([self._part(delta.index, text, delta.tokens, None)]))
        if delta.finish_reason is not None:  # on its own, for some clients read no text beside it
            answers.append(self._chunk([self._part(delta.index, wire.ChatDelta(), (), delta.finish_reason)]))
        return answers

    def last(self, usage: wire.Usage) -> wire.Answer:
        return self._chunk([]).model_copy(update={"usage": usage})

    def whole(self, deltas: Sequence[Delta], num_choices: int, usage: wire.Usage) -> wire.Whole:
        head = self._head
        choices = []
        for index, own in enumerate(_by_choice(deltas, num_choices)):
            text = "".join(delta.text for delta in own)
            choices.append(
                wire.ChatChoice(
                    index=index,
                    message=wire.ChatMessage(role="assistant", content=text, refusal=None),
                    logprobs=self._logprobs(token for delta in own for token in delta.tokens),
                    finish_reason=own[-1].finish_reason,
                )
            )
        return wire.ChatCompletion(
            id=head.id, object="chat.completion", created=head.created, model=head.model, choices=choices, usage=usage
        )

    def _chunk(self, choices: list[wire.ChatChunkChoice]) -> wire.ChatCompletionChunk:
        head = self._head
        chunk = wire.ChatCompletionChunk(
            id=head.id, object="chat.completion.chunk", created=head.created, model=head.model, choices=choices
        )
        return chunk.model_copy(update={"usage": None}) if head.include_usage else chunk

    def _part(
        self, index: int, delta: wire.ChatDelta, tokens: Iterable[GeneratedToken], finish: wire.Finish | None
    ) -> wire.ChatChunkChoice:
        scored = tuple(tokens)
        logprobs = self._logprobs(scored) if scored else None
        return wire.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)

    def _logprobs(self, tokens: Iterable[GeneratedToken]) -> wire.ChatLogprobs | None:
        if not self._head.scored:
            return None
        return wire.ChatLogprobs(
            content=[
                wire.ChatTokenLogprob(
                    token=token.chosen.text,
                    logprob=token.chosen.logprob,
                    bytes=list(token.chosen.utf8),
                    top_logprobs=[_top(top) for top in token.top],
                )
                for token in tokens
            ],
            refusal=None,
        )


def _top(token: ScoredToken) -> wire.TopLogprob:
    return wire.TopLogprob(token=token.text, logprob=token.logprob, bytes=list(token.utf8))


def _by_choice(deltas: Iterable[Delta], num_choices: int) -> list[list[Delta]]:
    own: list[list[Delta]] = [[] for _ in range(num_choices)]
    for delta in deltas:
        own[delta.index].append(delta)
    return own
