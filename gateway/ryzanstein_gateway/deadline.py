"""Time limits that nearly always hold: entered and left with each request, and no timer of the event loop for each.

All limits of one Deadlines are equally long, so the one that was entered first is the first to end, and one timer
watches over it. Knows tasks and clocks; knows nothing of requests.
"""

import asyncio
from types import TracebackType


class Deadline:
    """One limit, as a context: the task is cancelled when it is over, and TimeoutError comes out."""

    __slots__ = ("_deadlines", "at", "expired", "task")

    def __init__(self, deadlines: "Deadlines") -> None:
        self._deadlines = deadlines
        self.at = 0.0
        self.expired = False
        self.task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        self.task = asyncio.current_task()
        self._deadlines.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.running.pop(self, None)
        # As asyncio.timeout: whoever else has cancelled the task as well has to be obeyed.
        if self.expired and self.task and self.task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Deadlines:
    """Limits of `seconds` each, on the event loop that first uses them."""

    def __init__(self, seconds: float) -> None:
        self.running: dict[Deadline, None] = {}
        """In the order in which they end."""
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> Deadline:
        """A limit that begins when it is entered."""
        return Deadline(self)

    def add(self, deadline: Deadline) -> None:
        """Begin one."""
        loop = asyncio.get_running_loop()
        deadline.at = loop.time() + self._seconds
        self.running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        over = []
        for deadline in self.running:
            if deadline.at > now:
                self._timer = loop.call_at(deadline.at, self._look)
                break
            over.append(deadline)
        for deadline in over:
            del self.running[deadline]
            deadline.expired = True
            if deadline.task:
                deadline.task.cancel()
