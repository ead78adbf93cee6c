"""The table of the service's methods: each one's messages, and the OpenAI path that it is the twin of. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein.v1 import openai

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Inference"].full_name


@dataclass(frozen=True, slots=True)
class Method:
    """One method. `body` makes OpenAI's request of its message, `answer` its message of OpenAI's answer or chunk."""

    name: str
    path: str
    stream: bool
    request: type[Message]
    body: Callable[[Any], openai.Object]
    answer: Callable[[Mapping[str, Any]], Message]

    @property
    def full_name(self) -> str:
        """As it stands in a call's path."""
        return f"/{SERVICE}/{self.name}"


def _completion(name: str, *, stream: bool) -> Method:
    def body(request: pb.CompletionRequest) -> openai.Object:
        return openai.completion_object(request, stream=stream)

    return Method(name, "/v1/completions", stream, pb.CompletionRequest, body, openai.completion_response)


def _chat(name: str, answer: Callable[[Mapping[str, Any]], Message], *, stream: bool) -> Method:
    def body(request: pb.ChatRequest) -> openai.Object:
        return openai.chat_object(request, stream=stream)

    return Method(name, "/v1/chat/completions", stream, pb.ChatRequest, body, answer)


LIST_MODELS: Final = Method(
    "ListModels", "/v1/models", False, pb.ListModelsRequest, lambda request: {}, openai.models_response
)
METHODS: Final = (
    _completion("Complete", stream=False),
    _completion("StreamComplete", stream=True),
    _chat("Chat", openai.chat_response, stream=False),
    _chat("StreamChat", openai.chat_chunk, stream=True),
    LIST_MODELS,
)
