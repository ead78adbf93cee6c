"""The last Events of each service, as this process has emitted them. Bounded memory; makes no call.

The API server keeps Events for an hour and may not be asked for them with the operator's rights: it only creates them.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_operator.decide.times import text_of
from ryzanstein_operator.overview import EventRow

MOST_EVENTS: Final = 16
"""Of one service."""
MOST_SERVICES: Final = 1024
MAX_MESSAGE: Final = 512


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Recent:
    """Use within one event loop. Of a service that has been made anew under its old name nothing of before is told."""

    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self._now = now
        self._services: OrderedDict[str, OrderedDict[EmitEvent, EventRow]] = OrderedDict()

    def note(self, uid: str, event: EmitEvent) -> None:
        """`event` was emitted about the service with this UID. The same one again is counted, and is the newest."""
        events = self._services.setdefault(uid, OrderedDict())
        self._services.move_to_end(uid)
        if len(self._services) > MOST_SERVICES:
            self._services.popitem(last=False)
        before = events.pop(event, None)
        count = before.count + 1 if before else 1
        events[event] = EventRow(text_of(self._now()), event.type, event.reason, event.message[:MAX_MESSAGE], count)
        if len(events) > MOST_EVENTS:
            events.popitem(last=False)

    def of(self, uid: str) -> tuple[EventRow, ...]:
        """The newest first."""
        return tuple(reversed(self._services.get(uid, {}).values()))
