"""What a health page, or none, means for a replica."""

import msgspec
import pytest

from ryzanstein_gateway.vitals import Outcome, Status, Vitals, Why

FINE = Status(phase="serving", ready=True, epoch="a")


def seen(*checks: Status | Outcome, apart: float = 1.0) -> Vitals:
    """After these checks, one each second, the last one at `len(checks) - 1`."""
    vitals = Vitals()
    for index, check in enumerate(checks):
        vitals = vitals.told(check, index * apart) if isinstance(check, Status) else vitals.missed(check)
    return vitals


@pytest.mark.parametrize(
    ("checks", "why"),
    [
        ([], Why.NOTHING),
        ([Outcome.REFUSED] * 5, Why.NOTHING),  # it never had a page: another kind of server
        ([Outcome.FAILED] * 5, Why.NOTHING),
        ([FINE], Why.NOTHING),
        ([FINE, Outcome.REFUSED], Why.UNREACHABLE),
        ([FINE, Outcome.FAILED], Why.NOTHING),
        ([FINE, Outcome.FAILED, Outcome.FAILED], Why.UNREACHABLE),
        ([FINE, Outcome.FAILED, FINE, Outcome.FAILED], Why.UNREACHABLE),  # 2 of the last 3
        ([FINE, Outcome.FAILED, FINE, FINE, Outcome.FAILED], Why.NOTHING),
        ([FINE, Outcome.REFUSED, FINE], Why.NOTHING),
        ([msgspec.structs.replace(FINE, phase="draining", ready=False)], Why.DRAINING),
        ([msgspec.structs.replace(FINE, phase="loading", ready=False)], Why.NOT_READY),
        ([msgspec.structs.replace(FINE, ready=False)], Why.NOT_READY),
        ([msgspec.structs.replace(FINE, beat_age=3.0)], Why.NOTHING),
        ([msgspec.structs.replace(FINE, beat_age=3.1)], Why.LAGGING),
        ([msgspec.structs.replace(FINE, beat_age=99.0), FINE], Why.NOTHING),
    ],
)
def test_what_speaks_against_a_replica(checks: list[Status | Outcome], why: Why) -> None:
    assert seen(*checks).why() is why


@pytest.mark.parametrize(
    ("checks", "now", "stalled"),
    [
        ([FINE], 99.0, False),  # nothing says that it is gone
        ([FINE, Outcome.FAILED], 9.0, False),
        ([FINE, Outcome.FAILED, Outcome.FAILED], 3.9, False),
        ([FINE, Outcome.FAILED, Outcome.FAILED], 4.0, True),
        ([FINE, Outcome.REFUSED], 4.0, True),
        ([Outcome.REFUSED] * 9, 9.0, False),
        ([msgspec.structs.replace(FINE, beat_age=3.5)], 0.4, False),
        ([msgspec.structs.replace(FINE, beat_age=3.5)], 0.5, True),
        ([msgspec.structs.replace(FINE, phase="draining", beat_age=9.0)], 9.0, True),
        ([msgspec.structs.replace(FINE, phase="draining")], 99.0, False),
    ],
)
def test_when_what_runs_there_should_go_elsewhere(checks: list[Status | Outcome], now: float, stalled: bool) -> None:
    assert seen(*checks).stalled(now) is stalled


@pytest.mark.parametrize("page", [b"{}", b'{"phase":"serving","more":[1]}'])
def test_a_page_with_other_fields_is_one(page: bytes) -> None:
    assert msgspec.json.decode(page, type=Status) == Status()
