"""A thread that reads the parent's channel, so that a rank need never stop to look.

When the parent closes its end, or dies, the rank gets two seconds to leave its loop by itself; then the process ends,
whatever the main thread is stuck in.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ryzanstein_worker.parallel.messages import Channel, ChannelClosedError

_LEAVE_SECONDS = 2.0

T = TypeVar("T")


class Inbox(Generic[T]):
    """Messages of the parent in order. Unbounded: the parent bounds what it sends."""

    def __init__(self, channel: Channel[Any, T]) -> None:
        self._channel = channel
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def take(self, *, timeout: float, enough: Callable[[list[T]], bool]) -> list[T] | None:
        """All messages that are there, but no more once `enough` of them; wait `timeout` seconds for the first.

        None when the parent has closed its end.
        """
        taken: list[T] = []
        try:
            item = self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
            while item is not None:
                taken.append(item)
                if enough(taken):
                    return taken
                item = self._queue.get_nowait()
        except queue.Empty:
            return taken
        return None

    def _read(self) -> None:
        try:
            while True:
                self._queue.put(self._channel.receive())
        except ChannelClosedError:
            self._queue.put(None)
        time.sleep(_LEAVE_SECONDS)
        os._exit(0)
