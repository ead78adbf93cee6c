"""The requests of OpenAI's API that we answer: every field, its type and its bounds. Knows no engine and no tokenizer.

A field that is not here is refused, so that none is accepted and ignored. The one exception is `user`, which
OpenAI defines as a label without effect.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_CHOICES = 64
"""Sequences that one request may start: prompts times n."""
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TEXT_CHARS = 8 << 20
MAX_TOKENS = (1 << 31) - 1
MAX_LOGPROBS = 20

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class StrictModel(BaseModel):
    """No unknown field, no coercion, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(StrictModel):
    include_usage: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text"]


class GenerationRequest(StrictModel):
    """What completions and chat have in common. None always means: as if it had not been sent."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="0 or -1: off")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Field(max_length=1024, description="A label of the client's; has no effect.")] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise refuse("stream_options", "is only allowed when stream is true")
        limit = self.completion_limit
        if limit is not None and self.min_tokens is not None and self.min_tokens > limit:
            raise refuse("min_tokens", "must not be greater than max_tokens")
        return self

    @property
    def completion_limit(self) -> int | None:
        """The most tokens that the client wants; None where it named no limit."""
        return self.max_tokens

    @property
    def names_a_limit(self) -> bool:
        """Whether the limit is the client's own word, so that less would not be what it asked for."""
        return self.max_tokens is not None

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """How many of the most likely tokens to name beside each chosen one; None: no logprobs at all."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] | None = None

    @model_validator(mode="after")
    def _bounded_choices(self) -> "CompletionRequest":
        if len(self.prompts) * self.num_choices > MAX_CHOICES:
            raise refuse("n", f"times the number of prompts must be at most {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return [*self.prompt]

    @property
    def completion_limit(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(StrictModel):
    type: Literal["text"]
    text: Text


class Message(StrictModel):
    """One message. What an assistant's answer of ours carries may be sent back as it is."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=1024)]
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatCompletionRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _logprobs_agree(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise refuse("top_logprobs", "is only allowed when logprobs is true")
        return self

    @property
    def completion_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def names_a_limit(self) -> bool:
        return self.completion_limit is not None

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def refuse(param: str, sentence: str) -> PydanticCustomError:
    """A fault between fields. `parsing` turns it into an answer."""
    return PydanticCustomError("disagree", "fields do not agree", {"param": param, "sentence": sentence})
