"""PromQL as a tree: which series a query asks for, and by which labels it groups them. Evaluates nothing."""

from collections.abc import Iterator
from typing import Any

import promql_parser


def selectors(node: Any) -> Iterator[Any]:
    """All selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for part in _parts(node):
        yield from selectors(part)


def groupings(node: Any) -> Iterator[tuple[set[str], list[str]]]:
    """Each `by (...)` of a parsed query, and the names of the series that it groups."""
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        yield set(node.modifier.labels), [selector.name for selector in selectors(node)]
    for part in _parts(node):
        yield from groupings(part)


def _parts(node: Any) -> Iterator[Any]:
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if isinstance(inner, promql_parser.Expr):
            yield inner
    yield from getattr(node, "args", None) or ()
