"""Which replica has lately served which beginning of a prompt, so that its prefix cache may hold it.

Without a tokenizer: the raw bytes of `messages` or `prompt`, as they stand in the body, in pieces of a fixed size. The
next turn of a conversation repeats them byte for byte, and so does everyone who shares a system prompt. A hint and no
more: a replica may have evicted what is remembered here, and holds what other gateways sent it.

Knows bytes and hosts; no clock, no I/O, nothing of load: balance.py weighs the two.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from ryzanstein_gateway.balance import Prefix

PIECE_BYTES: Final = 512
"""Some 128 tokens of English: what is shorter is not worth a longer queue."""
MOST_BYTES: Final = 64 * PIECE_BYTES
"""Prompts that agree in 32 KiB are taken for equal."""
CAPACITY: Final = 65_536
"""Pieces remembered, of all replicas together: 32 MiB of text in about 15 MiB of memory."""
_KEY_BYTES: Final = 8


def piece_keys(prompt: bytes | memoryview, *, scope: str) -> tuple[int, ...]:
    """A key for each whole piece of a prompt's beginning; each stands for all bytes up to the end of its piece.

    `scope` is what must not be shared: the model and the tenant's salt, without which nobody can make two prompts
    collide. A last piece that is not whole has no key: the next turn would go on in the midst of it.
    """
    running = hashlib.blake2b(scope.encode(), digest_size=_KEY_BYTES)
    keys = []
    view = memoryview(prompt)
    for end in range(PIECE_BYTES, min(len(view), MOST_BYTES) + 1, PIECE_BYTES):
        running.update(view[end - PIECE_BYTES : end])
        keys.append(int.from_bytes(running.copy().digest()))
    return tuple(keys)


class PrefixMemory:
    """Remembers at most `capacity` pieces; the one that was not served for the longest time goes first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._served: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._lives: dict[str, int] = {}
        """A number for each life of a replica; pieces of an earlier one are never found again, and age out."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._served)

    def look_up(self, keys: Sequence[int], hosts: Iterable[str]) -> Prefix | None:
        """How many pieces from the beginning on each host has served; None for a prompt without a whole piece."""
        if not keys:
            return None
        held = {host: pieces for host in hosts if (pieces := self._held(keys, self._lives.get(host)))}
        return Prefix(keys[0], held)

    def remember(self, host: str, keys: Sequence[int]) -> None:
        """A host is being sent a prompt with these pieces. From the last to the first: the first outlive the rest, as
        they do in the replica's own cache."""
        if not keys:
            return
        if host not in self._lives:
            self._count += 1
            self._lives[host] = self._count
        life = self._lives[host]
        for key in reversed(keys):
            self._served[life, key] = None
            self._served.move_to_end((life, key))
        while len(self._served) > self._capacity:
            self._served.popitem(last=False)

    def forget(self, host: str) -> None:
        """A host's process was started anew, or its address is free for another pod: its cache is empty."""
        self._lives.pop(host, None)

    def _held(self, keys: Sequence[int], life: int | None) -> int:
        if life is None:
            return 0
        return next((index for index, key in enumerate(keys) if (life, key) not in self._served), len(keys))
