"""Times are read as Kubernetes writes them, to the nanosecond, and shown as kubectl shows them."""

import pytest

from ryzanstein_kubectl.model.ages import parse_nanos, parse_span, short

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:01.5Z", SECOND * 3 // 2),
        ("1970-01-01T00:00:01.000000007Z", SECOND + 7),
        ("1970-01-01T01:00:01.123456789+01:00", SECOND + 123456789),
        ("1969-12-31T23:00:01.25-01:00", SECOND * 5 // 4),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_moment_keeps_its_nanoseconds(text: str, nanos: int | None) -> None:
    assert parse_nanos(text) == nanos


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (700, "11m"),
        (7260, "121m"),
        (4 * 3600 + 300, "4h5m"),
        (30 * 3600, "30h"),
        (3 * 86400 + 7200, "3d2h"),
        (40 * 86400, "40d"),
    ],
)
def test_a_span_says_as_much_as_one_needs(seconds: float | None, text: str) -> None:
    assert short(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1h30m", 5400), ("2d", 172800), ("0s", None), ("5", None), ("m", None), ("-5s", None)],
)
def test_a_span_that_a_user_gives_is_read_or_refused(text: str, seconds: int | None) -> None:
    assert parse_span(text) == seconds
