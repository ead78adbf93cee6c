"""Times as the API writes them. Pure."""

from datetime import UTC, datetime


def moment(text: str) -> datetime:
    """RFC 3339 into a time in UTC. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)


def text_of(time: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
