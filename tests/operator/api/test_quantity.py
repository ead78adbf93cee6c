"""Quantities mean what Kubernetes says they mean."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ryzanstein_operator.api.quantity import is_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", Decimal(2)),
        (2, Decimal(2)),
        ("500m", Decimal("0.5")),
        ("16Gi", Decimal(2**34)),
        ("1.5Ki", Decimal(1536)),
        ("1e3", Decimal(1000)),
        ("1E3", Decimal(1000)),
        ("1E", Decimal(10**18)),
        ("100n", Decimal("1e-7")),
        ("-1", Decimal(-1)),
        (".5", Decimal("0.5")),
        ("5.", Decimal(5)),
    ],
)
def test_a_quantity_has_its_exact_value(text: str | int, value: Decimal) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1GB", "16gi", "1e", "1e3Mi", "0x10", "1,5", "1_000", "nan", "٣", "1\n"]
)
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert not is_quantity(text)
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**12))
def test_a_thousandth_of_a_thousandfold_is_the_same(number: int) -> None:
    assert parse_quantity(f"{number * 1000}m") == parse_quantity(number) == parse_quantity(f"{number}000e-3")
