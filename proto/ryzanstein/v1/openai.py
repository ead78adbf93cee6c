"""Requests of inference.proto into OpenAI's JSON objects, and OpenAI's answers into messages.

Pure. Checks nothing: what it makes of a request is checked by the one who answers it, by the rules of its JSON twin.
Knows no transport and no model of either part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from ryzanstein.v1 import inference_pb2 as pb

Object = dict[str, Any]
"""A JSON object, as `json.loads` would give it."""

_FINISH: Final = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}
_ROLES: Final = {pb.Role.Name(number).removeprefix("ROLE_").lower(): number for number in pb.Role.values() if number}


def completion_object(request: pb.CompletionRequest, *, stream: bool) -> Object:
    """The body of POST /v1/completions."""
    found = _shared(request.model, request.sampling, stream)
    match request.WhichOneof("prompt_kind"):
        case "prompt":
            found["prompt"] = request.prompt
        case "prompts":
            found["prompt"] = list(request.prompts.texts)
        case "prompt_token_ids":
            found["prompt"] = list(request.prompt_token_ids.ids)
        case "prompts_token_ids":
            found["prompt"] = [list(one.ids) for one in request.prompts_token_ids.lists]
    return found | _given(request, "logprobs", "echo")


def chat_object(request: pb.ChatRequest, *, stream: bool) -> Object:
    """The body of POST /v1/chat/completions."""
    found = _shared(request.model, request.sampling, stream)
    found["messages"] = [_message(message) for message in request.messages]
    return found | _given(request, "max_completion_tokens", "logprobs", "top_logprobs")


def _shared(model: str, sampling: pb.Sampling, stream: bool) -> Object:
    """What both kinds of requests have in common."""
    plain = [field.name for field in sampling.DESCRIPTOR.fields if field.name not in _OTHERWISE]
    found: Object = {"model": model, "stream": stream} | _given(sampling, *plain)
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    if sampling.HasField("response_format"):
        found["response_format"] = {"type": sampling.response_format.type}
    if sampling.HasField("include_usage"):
        found["stream_options"] = {"include_usage": sampling.include_usage}
    return found


_OTHERWISE: Final = ("stop", "response_format", "include_usage")
"""Fields of Sampling whose JSON has another shape or name."""


def _given(message: Message, *names: str) -> Object:
    """The named fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _message(message: pb.Message) -> Object:
    found: Object = _given(message, "name", "tool_call_id")
    if message.role:  # a number without a name is passed on, to be refused by its like's rules
        known = message.role in pb.Role.values()
        found["role"] = pb.Role.Name(message.role).removeprefix("ROLE_").lower() if known else str(int(message.role))
    match message.WhichOneof("content_kind"):
        case "content":
            found["content"] = message.content
        case "parts":
            found["content"] = [{"type": "text", "text": text} for text in message.parts.texts]
    return found


def completion_response(answer: Mapping[str, Any]) -> pb.CompletionResponse:
    """A completion or one chunk of it. Raises KeyError, TypeError, ValueError where it is not of OpenAI's shape."""
    choices = [
        pb.CompletionChoice(
            index=choice["index"],
            text=choice["text"],
            logprobs=_completion_logprobs(choice.get("logprobs")),
            finish_reason=_finish(choice.get("finish_reason")),
        )
        for choice in answer["choices"]
    ]
    return pb.CompletionResponse(**_head(answer), choices=choices)


def chat_response(answer: Mapping[str, Any]) -> pb.ChatResponse:
    """A whole chat completion. Raises KeyError, TypeError, ValueError where it is not of OpenAI's shape."""
    choices = [
        pb.ChatChoice(
            index=choice["index"],
            message=pb.Message(role=_role(choice["message"].get("role")), content=choice["message"]["content"] or ""),
            logprobs=_chat_logprobs(choice.get("logprobs")),
            finish_reason=_finish(choice.get("finish_reason")),
        )
        for choice in answer["choices"]
    ]
    return pb.ChatResponse(**_head(answer), choices=choices)


def chat_chunk(answer: Mapping[str, Any]) -> pb.ChatChunk:
    """A chunk of a chat completion. Raises KeyError, TypeError, ValueError where it is not of OpenAI's shape."""
    choices = [
        pb.ChatChunkChoice(
            index=choice["index"],
            delta=pb.ChatDelta(role=_role(choice["delta"].get("role")), content=choice["delta"].get("content")),
            logprobs=_chat_logprobs(choice.get("logprobs")),
            finish_reason=_finish(choice.get("finish_reason")),
        )
        for choice in answer["choices"]
    ]
    return pb.ChatChunk(**_head(answer), choices=choices)


def models_response(answer: Mapping[str, Any]) -> pb.ListModelsResponse:
    """A list of models."""
    models = [
        pb.Model(
            id=model["id"],
            created=model["created"],
            owned_by=model["owned_by"],
            max_model_len=model.get("max_model_len"),
        )
        for model in answer["data"]
    ]
    return pb.ListModelsResponse(models=models)


def error_message(error: Mapping[str, Any]) -> pb.Error:
    """The inside of an error object."""
    words = {name: value for name in ("message", "type", "param", "code") if isinstance(value := error.get(name), str)}
    return pb.Error(**words)


def _head(answer: Mapping[str, Any]) -> Object:
    """What every answer begins with. A usage that is there and null, as in all chunks but the last, is none."""
    usage = answer.get("usage")
    return {
        "id": answer["id"],
        "created": answer["created"],
        "model": answer["model"],
        "usage": None if usage is None else _usage(usage),
    }


def _usage(usage: Mapping[str, Any]) -> pb.Usage:
    details = usage.get("prompt_tokens_details") or {}
    return pb.Usage(
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage.get("completion_tokens", 0),
        total_tokens=usage["total_tokens"],
        prompt_tokens_details=pb.PromptTokensDetails(cached_tokens=details.get("cached_tokens") or 0),
    )


def _finish(reason: str | None) -> pb.FinishReason.ValueType:
    return _FINISH.get(reason, pb.FINISH_REASON_OTHER)


def _role(role: str | None) -> pb.Role.ValueType:
    return _ROLES.get(role or "", pb.ROLE_UNSPECIFIED)


def _completion_logprobs(found: Mapping[str, Any] | None) -> pb.CompletionLogprobs | None:
    if found is None:
        return None
    columns = (found["tokens"], found["token_logprobs"], found["text_offset"], found["top_logprobs"])
    tokens = [
        pb.CompletionTokenLogprob(
            token=token,
            logprob=logprob,
            text_offset=offset,
            top_logprobs=[pb.TopLogprob(token=text, logprob=score) for text, score in top.items()],
        )
        for token, logprob, offset, top in zip(*columns, strict=True)
    ]
    return pb.CompletionLogprobs(tokens=tokens)


def _chat_logprobs(found: Mapping[str, Any] | None) -> pb.ChatLogprobs | None:
    if found is None:
        return None
    tokens = [
        pb.ChatTokenLogprob(
            token=token["token"],
            logprob=token["logprob"],
            bytes=_bytes(token.get("bytes")) or b"",
            top_logprobs=[
                pb.TopLogprob(token=top["token"], logprob=top["logprob"], bytes=_bytes(top.get("bytes")))
                for top in token["top_logprobs"]
            ],
        )
        for token in found["content"] or ()
    ]
    return pb.ChatLogprobs(content=tokens)


def _bytes(numbers: Sequence[int] | None) -> bytes | None:
    return None if numbers is None else bytes(numbers)
