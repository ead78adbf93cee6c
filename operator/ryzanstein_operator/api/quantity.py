"""Kubernetes quantities ("500m", "16Gi", "1e3") as exact numbers. Knows their grammar and nothing else."""

import re
from decimal import Decimal

_SUFFIXES = {
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("n", "u", "m"), start=-3)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_GRAMMAR = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?")


def parse_quantity(value: str | int | float) -> Decimal:
    """The exact value of a quantity. Raises ValueError if it is none."""
    match = _GRAMMAR.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity such as 2, 500m or 16Gi")
    number, suffix, exponent = match.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])


def is_quantity(value: str | int | float) -> bool:
    """Whether the API server would read it as a quantity."""
    try:
        parse_quantity(value)
    except ValueError:
        return False
    return True
