"""How many tokens a request cost, told without reading its reply: for those models alone that have a limit of tokens.

Truth in this order: what our worker says in a header, and of a stream what its journal counted (both are in the
Exchange); else, of another server, the `usage` that the reply itself ends with (every whole reply, and a stream that
was asked for it), searched in its last bytes only; else the prompt as estimated from the body, and one token for each
event of the stream.
"""

import re
from collections.abc import Iterable
from typing import Final

from ryzanstein_gateway.errors import Refusal
from ryzanstein_gateway.exchange import Exchange, Header, Outlet

BYTES_A_TOKEN: Final = 4
"""Of a request's body: the usual figure for English, and right within a factor of two for most scripts."""
TAIL_BYTES: Final = 2048
# A quotation mark inside a JSON string is escaped, so no text that a model writes can look like this.
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{([^{}]*)')
_PROMPT: Final = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,9})')
_COMPLETION: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,9})')
_EVENT: Final = b"data: "


def estimated_prompt(body: bytes) -> int:
    """Tokens of a prompt, from the size of the body that holds it; at least one."""
    return max(1, len(body) // BYTES_A_TOKEN)


def usage_in(tail: bytes) -> int | None:
    """Prompt and completion tokens of the last usage in the end of a reply; None where there is none."""
    found = None
    for match in _USAGE.finditer(tail):
        prompt, completion = _PROMPT.search(match[1]), _COMPLETION.search(match[1])
        if prompt is not None:
            found = int(prompt[1]) + (int(completion[1]) if completion else 0)
    return found


class Meter:
    """An Outlet around another: counts what passes and adds headers to the reply."""

    def __init__(self, outlet: Outlet, headers: tuple[Header, ...]) -> None:
        self._outlet = outlet
        self._headers = headers
        self._tail = b""
        self._events = 0

    @property
    def started(self) -> bool:
        """Whether anything went out."""
        return self._outlet.started

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Status and headers, with ours."""
        await self._outlet.start(status, [*headers, *self._headers])

    async def write(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._events += chunk.count(_EVENT)
        self._tail = chunk[-TAIL_BYTES:] if len(chunk) >= TAIL_BYTES else (self._tail + chunk)[-TAIL_BYTES:]
        await self._outlet.write(chunk)

    async def end(self) -> None:
        """The body is complete."""
        await self._outlet.end()

    async def cut(self, refusal: Refusal, *, event_stream: bool) -> None:
        """The body cannot be completed."""
        await self._outlet.cut(refusal, event_stream=event_stream)

    def tokens(self, estimate: int, exchange: Exchange) -> int:
        """What the request cost; `estimate`: of its prompt. Nothing, where no reply began."""
        if not self._outlet.started or exchange.status != 200:
            return 0
        prompt, completion = exchange.prompt_tokens, exchange.completion_tokens
        if prompt is None or completion is None:
            told = usage_in(self._tail)
            if told is not None:
                return told
        return (estimate if prompt is None else prompt) + (self._events if completion is None else completion)
