"""Which replicas lie out, by table."""

import pytest

from ryzanstein_gateway.outlier import Ejection, OutlierPolicy, Sample, judge

POLICY = OutlierPolicy()
GOOD = Sample(answers=20, errors=1, timed=20, seconds=20 * 0.5)
SLOW = Sample(answers=20, errors=1, timed=20, seconds=20 * 2.5)
SLOWER = Sample(answers=20, errors=1, timed=20, seconds=20 * 9.0)
BROKEN = Sample(answers=20, errors=12, timed=20, seconds=20 * 0.5)
FEW = Sample(answers=9, errors=9, timed=9, seconds=90.0)


def ejected(samples: list[Sample], known: dict[str, Ejection] | None = None, now: float = 100.0) -> set[str]:
    """The names, which are letters, of those that are out after a look."""
    named = dict(zip("abcdef", samples, strict=False))
    return {name for name, one in judge(named, known or {}, now, POLICY).items() if one.until > now}


@pytest.mark.parametrize(
    ("samples", "out"),
    [
        ([], set()),
        ([SLOWER], set()),  # alone there is nothing to compare with
        ([GOOD, GOOD], set()),
        ([GOOD, SLOW], {"b"}),
        ([SLOW, SLOW, SLOW], set()),  # a hard day for all
        ([BROKEN, BROKEN, BROKEN], set()),
        ([GOOD, GOOD, BROKEN], {"c"}),
        ([GOOD, GOOD, FEW], set()),
        ([FEW, FEW, SLOWER], set()),
        ([GOOD, GOOD, GOOD, SLOW, SLOWER, BROKEN], {"d", "e", "f"}),
        ([GOOD, GOOD, GOOD, SLOW, SLOWER], {"d", "e"}),
        ([GOOD, GOOD, SLOWER], {"c"}),
        ([Sample(20, 0, 20, 0.2), Sample(20, 0, 20, 18.0)], set()),  # many times slower, and still fast
    ],
)
def test_who_lies_out_is_ejected(samples: list[Sample], out: set[str]) -> None:
    assert ejected(samples) == out


def test_never_more_than_half_and_the_worst_first() -> None:
    assert ejected([GOOD, GOOD, GOOD, SLOW, SLOWER], {"a": Ejection(200.0, 1)}) == {"a", "e"}
    assert ejected([GOOD, SLOW], {"a": Ejection(200.0, 1)}) == {"a"}


def test_ejections_grow_and_are_forgiven_step_by_step() -> None:
    known: dict[str, Ejection] = {}
    now, lengths = 0.0, []
    for _ in range(14):
        known = judge({"a": GOOD, "b": SLOWER}, known, now, POLICY)
        lengths.append(known["b"].until - now)
        now = known["b"].until
    assert lengths[:3] == [10.0, 20.0, 30.0]
    assert lengths[-1] == POLICY.eject_for_most
    times = known["b"].times
    known = judge({"a": GOOD, "b": FEW}, known, now, POLICY)
    assert known["b"].times == times, "too few answers to forgive"
    assert judge({"a": GOOD, "b": GOOD}, known, now, POLICY)["b"].times == times - 1


def test_samples_add_up() -> None:
    sample = Sample().answered(error=False).answered(error=True).first_byte(0.5).first_byte(1.0)
    assert sample == Sample(answers=2, errors=1, timed=2, seconds=1.5)
