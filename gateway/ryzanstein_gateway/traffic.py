"""What goes on for each service: requests under way, and those that wait. Added up over processes.

Pure. Knows neither requests nor who wants to know.
"""

from collections.abc import Iterable

import msgspec


class Traffic(msgspec.Struct, frozen=True):
    """One service. `in_flight`: requests that replicas work on, or are being sent to; `waiting`: held for want of a
    replica or of room; `busy_at`: when there last was one of either, in seconds of the machine's monotonic clock.
    `requests` and `first_bytes`: of the last minute, as recent.Recent sums them up."""

    namespace: str
    service: str
    in_flight: int
    waiting: int
    busy_at: float
    requests: int = 0
    first_bytes: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and Service."""
        return self.namespace, self.service

    def with_(self, other: "Traffic") -> "Traffic":
        """Both together."""
        return Traffic(
            self.namespace,
            self.service,
            self.in_flight + other.in_flight,
            self.waiting + other.waiting,
            max(self.busy_at, other.busy_at),
            self.requests + other.requests,
            self.first_bytes + other.first_bytes,  # behind one another; whoever wants their sum asks recent.counted
        )


def together(parts: Iterable[Traffic]) -> dict[tuple[str, str], Traffic]:
    """Each service once: its parts added up."""
    found: dict[tuple[str, str], Traffic] = {}
    for part in parts:
        before = found.get(part.key)
        found[part.key] = part if before is None else before.with_(part)
    return found
