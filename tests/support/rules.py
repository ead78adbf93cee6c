"""The rule files that the chart ships, their promtool tests and their runbooks, as they are written."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "helm" / "ryzanstein" / "files" / "rules"
TESTS: Final = ROOT / "tests" / "rules"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One rule. alert: whether it is an alert's, else a recording's; body: as it is written."""

    group: str
    name: str
    alert: bool
    expr: str
    body: dict[str, Any]


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All rules, in the order of files and lines."""
    return tuple(rule for path in sorted(RULES.glob("*.yaml")) for rule in _of(path))


def alerts() -> dict[str, Rule]:
    """The alerts by name."""
    return {rule.name: rule for rule in rules() if rule.alert}


def records() -> dict[str, Rule]:
    """The recording rules by what they record."""
    return {rule.name: rule for rule in rules() if not rule.alert}


@functools.cache
def promtool_tests() -> list[dict[str, Any]]:
    """All tests of all files."""
    return [test for path in sorted(TESTS.glob("*.yaml")) for test in _load(path)["tests"]]


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """The fenced blocks of a page: the language, and the lines."""
    return [(language, text.splitlines()) for language, text in _FENCE.findall(page.read_text())]


def _of(path: Path) -> Iterator[Rule]:
    for group in _load(path)["groups"]:
        for body in group["rules"]:
            name = body.get("alert") or body["record"]
            yield Rule(group["name"], name, "alert" in body, body["expr"], body)


def _load(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.CSafeLoader)
