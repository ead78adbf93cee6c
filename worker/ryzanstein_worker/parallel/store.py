"""torch.distributed's store over a channel of ours. torch's own would listen on every address and ask nobody who it is.

What a subclass of Store must have is what torch's C++ calls by name: see decision 15. `wait` asks again and again:
nobody holds an answer back, so the other end stays simple, and a rank waits only while it starts.
"""

import datetime
import threading
import time
from collections.abc import Sequence

from torch.distributed import Store  # type: ignore[attr-defined]  # torch forgets __all__

from ryzanstein_worker.parallel.keyvalue import Answer, Ask
from ryzanstein_worker.parallel.messages import Channel, ChannelClosedError

_AGAIN_SECONDS = 0.02


class ChannelStore(Store):
    """One rank's end. Thread-safe: NCCL's watchdog asks too. Keep it as long as the group lives: torch does not."""

    def __init__(self, channel: Channel[Ask, Answer], timeout_seconds: float) -> None:
        """`timeout_seconds` is for a `get` of what is not there yet."""
        super().__init__()
        self._channel = channel
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    def set(self, key: str, value: bytes | str) -> None:
        self._ask(Ask(what="set", key=key, value=_bytes(value)))

    def get(self, key: str) -> bytes:
        """Waits until the key is there. Raises RuntimeError after the timeout."""
        self.wait([key])
        value = self._ask(Ask(what="get", key=key)).value
        if value is None:
            raise RuntimeError(f"the group's table has lost {key}")
        return value

    def add(self, key: str, number: int) -> int:
        return self._ask(Ask(what="add", key=key, number=number)).number

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        ask = Ask(what="compare_set", key=key, expected=_bytes(expected), value=_bytes(desired))
        return self._ask(ask).value or b""

    def delete_key(self, key: str) -> bool:
        return self._ask(Ask(what="delete", key=key)).number == 1

    def num_keys(self) -> int:
        return self._ask(Ask(what="count")).number

    deleteKey = delete_key  # C++ calls these two by their names there
    getNumKeys = num_keys

    def check(self, keys: Sequence[str]) -> bool:
        return all(self._ask(Ask(what="get", key=key)).value is not None for key in keys)

    def wait(self, keys: Sequence[str], timeout: datetime.timedelta | None = None) -> None:
        """Raises RuntimeError after the timeout."""
        seconds = self._timeout_seconds if timeout is None else timeout.total_seconds()
        deadline = time.monotonic() + seconds
        while not self.check(keys):
            if time.monotonic() > deadline:
                raise RuntimeError(f"after {seconds:g} s the group's table still has not all of {', '.join(keys)}")
            time.sleep(_AGAIN_SECONDS)

    def has_extended_api(self) -> bool:
        """torch then uses neither append nor multi_get nor multi_set nor queues."""
        return False

    def _ask(self, ask: Ask) -> Answer:
        with self._lock:
            try:
                self._channel.send(ask)
                answer = self._channel.receive()
            except ChannelClosedError as error:
                raise RuntimeError("the group's table cannot be reached") from error
        if answer.error:
            raise RuntimeError(answer.error)
        return answer


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
