"""The poison corpus: requests that harmed servers like ours, and what must come of each.

One table for every protocol: a request is written as its JSON body, and `as_message` says how gRPC would put it, where
gRPC has words for it at all. Knows the API's wire formats; sends nothing.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ryzanstein.v1 import inference_pb2 as pb
from ryzanstein_worker.contract import CHAT_COMPLETIONS as CHAT
from ryzanstein_worker.contract import COMPLETIONS
from worker_process import MODEL_NAME

USER = {"role": "user", "content": "hi"}
DEEP_SCHEMA: dict[str, Any] = {}
for _ in range(400):
    DEEP_SCHEMA = {"properties": {"a": DEEP_SCHEMA}}


@dataclass(frozen=True)
class Poison:
    """A request and what must come of it: an error about `param`, or (None) any orderly answer."""

    name: str
    fields: dict[str, Any] = field(repr=False)
    param: str | None
    path: str = COMPLETIONS
    served: bool = False
    """Valid however odd: an answer is due."""

    @property
    def body(self) -> dict[str, Any]:
        """The whole request."""
        base: dict[str, Any] = {"model": MODEL_NAME, "max_tokens": 2}
        base |= {"prompt": "hi"} if self.path == COMPLETIONS else {"messages": [USER]}
        return base | self.fields


def _field(name: str, value: object, *, label: str | None = None) -> Poison:
    return Poison(label or f"{name}={value!r}"[:40], {name: value}, name)


def _fields(name: str, *values: object) -> list[Poison]:
    return [_field(name, value) for value in values]


def _format(label: str, schema: object) -> Poison:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return Poison(label, {"response_format": wanted}, "response_format.type")


CORPUS: tuple[Poison, ...] = (
    *_fields("max_tokens", 0, -1, 2**31, 2**63, 2**200, 1.5, "5", True, [1]),
    *_fields("temperature", -0.1, 2.1, "hot", [], True),
    *_fields("top_p", 0, 1.1, -1, "1"),
    *_fields("top_k", -2, 2**40, 1.5),
    *_fields("min_p", -0.1, 1.01),
    *_fields("presence_penalty", 2.5, -1e308),
    *_fields("frequency_penalty", -2.01, 1e308),
    *_fields("seed", 2**64, -(2**64), 1.5),
    *_fields("n", 0, -1, 10**9, 65),
    *_fields("logprobs", -1, 10**6, True),
    *_fields("user", 5, "x" * 2000),
    *_fields("min_tokens", -1, 2**40),
    *_fields("stream", "yes", 1),
    _field("stop", ["x"] * 100_000, label="stop list of 100,000"),
    _field("stop", "", label="empty stop string"),
    _field("stop", ["a", ""], label="empty stop string in a list"),
    _field("stop", ["x" * 257], label="stop string too long"),
    _field("stop", 5),
    _field("prompt", ""),
    _field("prompt", []),
    _field("prompt", [[]]),
    _field("prompt", [-1]),
    _field("prompt", [2**40]),
    _field("prompt", [384]),
    _field("prompt", [7] * 512, label="the whole context as a prompt"),
    _field("prompt", [7] * 513, label="one more than the context"),
    _field("prompt", [1.5]),
    _field("prompt", ["a", 1]),
    _field("prompt", {"a": 1}),
    _field("prompt", ["a"] * 65, label="65 prompts"),
    Poison("the context less one, and one token", {"prompt": [7] * 511, "max_tokens": 1}, None, served=True),
    Poison("64 prompts twice", {"prompt": ["a"] * 64, "n": 2}, "n"),
    Poison("min above max", {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    Poison("echo", {"echo": True}, "echo"),
    Poison("unknown field", {"logit_bias": {"99999999": 1}}, "logit_bias"),
    Poison("unknown long field", {"f" * 500: 1}, "f" * 64),
    Poison("tensors", {"prompt_embeds": "gASVAA=="}, "prompt_embeds"),
    Poison("best_of", {"best_of": 2}, "best_of"),
    Poison("options without a stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    Poison("unknown option", {"stream": True, "stream_options": {"x": 1}}, "x"),
    Poison("json mode", {"response_format": {"type": "json_object"}}, "response_format.type"),
    Poison("json mode off", {"json_object": False}, "json_object"),
    Poison("empty grammar", {"guided_json": ""}, "guided_json"),
    Poison("schema", {"response_format": {"type": "text", "json_schema": {"$ref": "#"}}}, "json_schema"),
    Poison("regex that explodes", {"guided_regex": "(a+)+b"}, "guided_regex"),
    Poison("regex that is none", {"guided_regex": "("}, "guided_regex"),
    _format("schema of itself", {"$ref": "#"}),
    _format("schema as deep as the parsers go", DEEP_SCHEMA),
    _format("schema with 100,000 choices", {"enum": [str(number) for number in range(100_000)]}),
    _format("schema with a large maximum", {"type": "integer", "maximum": 2e10}),
    Poison("unknown model", {"model": "other"}, "model"),
    Poison("model from a path", {"model": "../../etc/passwd"}, "model"),
    Poison("no model", {"model": None}, "model"),
    Poison("no messages", {"messages": []}, "messages", CHAT),
    Poison("unknown role", {"messages": [{"role": "root", "content": "x"}]}, "messages.0.role", CHAT),
    Poison("image part", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content",
           CHAT),
    Poison("no content", {"messages": [{"role": "user"}]}, "messages.0.content", CHAT),
    Poison("tool calls", {"messages": [{**USER, "tool_calls": []}]}, "tool_calls", CHAT),
    Poison("a template of the client's", {"messages": [USER], "chat_template": "{{ 1 }}"}, "chat_template", CHAT),
    Poison("template arguments", {"messages": [USER], "chat_template_kwargs": {"tokenize": True}},
           "chat_template_kwargs", CHAT),
    Poison("tools", {"messages": [USER], "tools": []}, "tools", CHAT),
    Poison("top_logprobs alone", {"messages": [USER], "top_logprobs": 2}, "top_logprobs", CHAT),
    Poison("top_logprobs too many", {"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs", CHAT),
    Poison("whitespace", {"prompt": " \n\t "}, None, served=True),
    Poison("NUL", {"prompt": "a\0b"}, None, served=True),
    Poison("special tokens as text", {"prompt": "<|im_end|><|endoftext|>"}, None, served=True),
    Poison("special tokens in chat", {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}]},
           None, CHAT, served=True),
    Poison("denormal temperature", {"temperature": 1e-320}, None, served=True),
    Poison("negative zero", {"temperature": -0.0}, None, served=True),
    Poison("combining marks", {"prompt": "a" + "\u0301" * 150}, None, served=True),
    Poison("100,000 combining marks", {"prompt": "a" + "\u0301" * 100_000}, "prompt"),
    Poison("a megabyte without a token", {"prompt": "\u2063" * (1 << 20)}, "prompt"),
    Poison("all nulls", {"stop": None, "n": None, "seed": None, "user": None}, None, served=True),
    Poison("extremes", {"top_p": 1e-308, "top_k": 1, "min_p": 1, "presence_penalty": 2, "seed": -(2**63)}, None,
           served=True),
)  # fmt: skip

RAW: dict[str, bytes] = {
    "no JSON": b"{",
    "no object": b"[]",
    "empty": b"",
    "NaN": b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
    "infinity": b'{"model": "tiny", "prompt": "x", "temperature": -Infinity}',
    "too large a number": b'{"model": "tiny", "prompt": "x", "temperature": 1e999}',
    "endless digits": b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 100_000 + b"}",
    "a key twice": b'{"model": "tiny", "prompt": "x", "prompt": "y"}',
    "a key twice inside": b'{"model": "tiny", "prompt": "x", "stream_options": {"a": 1, "a": 2}}',
    "deep lists": b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "tiny", "prompt": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "lone surrogate": b'{"model": "tiny", "prompt": "a\\ud800b"}',
    "lone surrogate in a stream": b'{"model": "tiny", "stream": true, "prompt": "\\ud83d"}',
    "lone surrogate as a key": b'{"model": "tiny", "prompt": "x", "\\udfff": 1}',
    "overlong UTF-8": b'{"model": "tiny", "prompt": "\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
    "UTF-16": '{"model": "tiny", "prompt": "x"}'.encode("utf-16"),
}
"""Bodies that no table of fields can write down. Each is a 400."""

RAW_MESSAGES: dict[str, bytes] = {
    "no message": b"\xff",
    "a length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "overlong UTF-8": b"\x0a\x04de\xc0\xaf",
    "UTF-8 of a surrogate": b"\x0a\x03\xed\xa0\x80",
    "groups within groups": b"\x7b" * 100_000,
    "a model twice": b"\x0a\x05other" + b"\x0a\x05other",
    **{
        f"{name}={value}": pb.CompletionRequest(
            model=MODEL_NAME, prompt="x", sampling=pb.Sampling(**{name: value})
        ).SerializeToString()
        for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")
        for value in (math.nan, math.inf, -math.inf)
    },
    "a role that has no name": pb.ChatRequest(model=MODEL_NAME).SerializeToString() + b"\x12\x05\x08\x4d\x12\x01x",
}
"""What only protocol buffers can say, as CompletionRequest (the last as ChatRequest). Each is an error."""


def as_message(poison: Poison) -> tuple[str, Message] | None:
    """The method and message of a request; None where the message's types rule it out."""
    body = {name: value for name, value in poison.body.items() if value is not None}
    stream = body.pop("stream", False)
    if not isinstance(stream, bool):
        return None
    try:
        sampling = _sampling(body)
        message = _completion(body, sampling) if poison.path == COMPLETIONS else _chat(body, sampling)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    method = "Complete" if poison.path == COMPLETIONS else "Chat"
    return None if body else (f"Stream{method}" if stream else method, message)


def _sampling(body: dict[str, Any]) -> pb.Sampling:
    sampling = pb.Sampling()
    for one in pb.Sampling.DESCRIPTOR.fields:
        if one.name == "stop" and "stop" in body:
            stop = body.pop("stop")
            sampling.stop.extend([stop] if isinstance(stop, str) else stop)
        elif one.name == "response_format" and set(body.get(one.name, ())) == {"type"}:
            sampling.response_format.type = body.pop(one.name)["type"]
        elif one.name == "include_usage" and set(body.get("stream_options", ())) == {one.name}:
            sampling.include_usage = body.pop("stream_options")[one.name]
        elif one.name in body and one.name != "response_format":
            _put(sampling, one, body.pop(one.name))
    return sampling


def _put(message: Message, one: FieldDescriptor, value: Any) -> None:
    if isinstance(value, bool) != (one.type == FieldDescriptor.TYPE_BOOL):  # Python takes True for 1
        raise TypeError
    setattr(message, one.name, value)


def _completion(body: dict[str, Any], sampling: pb.Sampling) -> pb.CompletionRequest:
    message = pb.CompletionRequest(model=body.pop("model", ""), sampling=sampling)
    prompt = body.pop("prompt")
    if isinstance(prompt, str):
        message.prompt = prompt
    elif not isinstance(prompt, list):
        raise TypeError
    elif prompt and isinstance(prompt[0], str):
        message.prompts.texts.extend(prompt)
    elif prompt and isinstance(prompt[0], list):
        message.prompts_token_ids.lists.extend(pb.TokenIds(ids=ids) for ids in prompt)
    else:
        message.prompt_token_ids.ids.extend(prompt)
        message.prompt_token_ids.SetInParent()
    for name in ("logprobs", "echo"):
        if name in body:
            _put(message, pb.CompletionRequest.DESCRIPTOR.fields_by_name[name], body.pop(name))
    return message


def _chat(body: dict[str, Any], sampling: pb.Sampling) -> pb.ChatRequest:
    messages = [
        pb.Message(role=pb.Role.Value(f"ROLE_{one.pop('role').upper()}"), **one)
        for one in (dict(message) for message in body.pop("messages"))
    ]
    message = pb.ChatRequest(model=body.pop("model", ""), messages=messages, sampling=sampling)
    for name in ("logprobs", "top_logprobs"):
        if name in body:
            _put(message, pb.ChatRequest.DESCRIPTOR.fields_by_name[name], body.pop(name))
    return message
