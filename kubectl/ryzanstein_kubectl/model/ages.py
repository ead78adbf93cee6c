"""Times as Kubernetes writes them, and as kubectl shows them."""

import re
from datetime import UTC, datetime

NANOS = 1_000_000_000


def parse_time(text: str) -> datetime | None:
    """A moment of RFC 3339, aware; None for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_nanos(text: str) -> int | None:
    """The same in nanoseconds since 1970, which is what a kubelet counts a log's lines by; None for what is none."""
    moment = parse_time(text)
    if moment is None:
        return None
    _, dot, rest = text.partition(".")
    digits = rest.rstrip("Zz").partition("+")[0].partition("-")[0] if dot else ""
    return int(moment.replace(microsecond=0).timestamp()) * NANOS + int(digits.ljust(9, "0")[:9] or "0")


def seconds_since(text: str, now: datetime) -> float | None:
    """How long ago a moment of RFC 3339 was; None for what is none."""
    moment = parse_time(text)
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def short(seconds: float | None) -> str:
    """ "45s", "12m", "3h5m", "2d4h", "40d": the two largest units while they say something, as kubectl."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 10:
        return _pair(minutes, "m", whole % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _pair(hours, "h", minutes % 60, "m")
    if days < 2:
        return f"{hours}h"
    if days < 8:
        return _pair(days, "d", hours % 24, "h")
    return f"{days}d"


def _pair(one: int, unit: str, rest: int, smaller: str) -> str:
    return f"{one}{unit}{rest}{smaller}" if rest else f"{one}{unit}"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(?:[0-9]{1,7}[smhd])+")


def parse_span(text: str) -> int | None:
    """Seconds of "30s", "1h30m", "2d"; None for what is no such time or no time at all."""
    if not _SPAN.fullmatch(text):
        return None
    return sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall("[0-9]+[smhd]", text)) or None
