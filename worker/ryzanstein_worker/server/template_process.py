"""Renders a model's chat template, in a process of its own. Started by `chat_template`; knows nothing else.

A template comes with the model and is a program: it may loop forever or double a string until memory is gone, and
no sandbox inside a Python process can stop that for certain. Here the operating system can: memory is limited,
and the parent kills the process when time is up. Standard input and output carry frames: four bytes of length,
big-endian, then JSON.
"""

import json
import resource
import signal
import struct
import sys
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 1 << 30
MAX_OUTPUT_CHARS = 8 << 20


def raise_exception(message: str) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's `tojson`: without the HTML escaping of Jinja's own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; for serving it is its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """Hugging Face's conventions for chat templates. The sandbox caps `range` at 100,000."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def read_frame(stream: BinaryIO) -> Any:
    """The next frame's JSON value; None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(struct.unpack(">I", head)[0]))


def frame(value: Any) -> bytes:
    payload = json.dumps(value).encode()
    return struct.pack(">I", len(payload)) + payload


def main() -> None:
    """Reads the template's source, then {"now": Unix seconds, "variables": ...} frame by frame; answers {"text": ...}
    or {"error": kind}."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # the worker's, for its log; they would end this process
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        template = environment().from_string(read_frame(sys.stdin.buffer))
    except (TemplateError, RecursionError, MemoryError):
        return
    while (question := read_frame(sys.stdin.buffer)) is not None:
        now = datetime.fromtimestamp(question["now"])
        sys.stdout.buffer.write(frame(_render(template, {"strftime_now": now.strftime, **question["variables"]})))
        sys.stdout.buffer.flush()


def _render(template: Any, variables: dict[str, Any]) -> dict[str, str]:
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(**variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_OUTPUT_CHARS:
                return {"error": "too_long"}
    except Exception:  # whatever a template raises, the conversation did not fit it
        return {"error": "refused"}
    return {"text": "".join(pieces)}


if __name__ == "__main__":
    main()
