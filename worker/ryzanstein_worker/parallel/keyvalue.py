"""The small table in which the ranks of a group find each other's addresses: its questions, its answers, itself.

The first pod holds it. torch.distributed sees it as a store (store.py), which is one rank's end. No torch here: the
parents, which pass the questions on, have none.
"""

from typing import Literal

import msgspec

MOST_KEYS = 65_536
MOST_BYTES = 2**20
"""Of a key and its value. What torch stores are addresses and counters."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """One question of a rank. `expected` is compare_set's alone, `number` add's."""

    what: Literal["get", "set", "add", "compare_set", "delete", "count"]
    key: str = ""
    value: bytes = b""
    expected: bytes = b""
    number: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """`value` is None where there is no such key; `number` is add's sum, count's count, and 1 for a delete that did."""

    value: bytes | None = None
    number: int = 0
    error: str = ""


class Table:
    """Keys and values of one epoch."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def answer(self, ask: Ask) -> Answer:
        """Never raises; what cannot be done is told in the answer."""
        known = self._values.get(ask.key)
        if ask.what == "get":
            return Answer(value=known)
        if ask.what == "count":
            return Answer(number=len(self._values))
        if ask.what == "delete":
            return Answer(number=int(self._values.pop(ask.key, None) is not None))
        if (known is None and len(self._values) >= MOST_KEYS) or len(ask.key) + len(ask.value) > MOST_BYTES:
            return Answer(error="the group's table is full")
        if ask.what == "set":
            return self._put(ask.key, ask.value)
        if ask.what == "compare_set":
            # As torch's own stores: an absent key is set where nothing was expected.
            fits = known == ask.expected or (known is None and not ask.expected)
            return self._put(ask.key, ask.value) if fits else Answer(value=ask.expected if known is None else known)
        try:
            total = int(known or 0) + ask.number
        except ValueError:
            return Answer(error=f"the value of {ask.key} is no number")
        self._values[ask.key] = str(total).encode()
        return Answer(number=total)

    def _put(self, key: str, value: bytes) -> Answer:
        self._values[key] = value
        return Answer(value=value)
