"""The fields, the chart's values and the commands that the documentation's sentences name exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ryzanstein_kubectl.commands.line import parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/runbooks").glob("*.md"))]
DOTTED = re.compile(r"[a-z][A-Za-z]*(\.[a-z][A-Za-z]*)+")


def quoted(page: Path) -> list[str]:
    """What stands in backticks within sentences, line breaks taken out."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)]


def of_values(values: Any, path: str = "") -> Iterator[str]:
    yield path
    for name, inner in values.items() if isinstance(values, dict) else ():
        yield from of_values(inner, f"{path}.{name}")


def of_schema(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    yield path
    for name, inner in schema.get("properties", {}).items():
        yield from of_schema(inner, f"{path}.{name}")
    if "items" in schema:
        yield from of_schema(schema["items"], path)


def known() -> set[str]:
    """Every path of the custom resource and of the chart's values, and each of its ends: `autoscaling.minReplicas`."""
    crd = yaml.safe_load((ROOT / "crds/ryzanstein.dev_inferenceservices.yaml").read_text())
    paths = set(of_schema(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    paths |= set(of_values(yaml.safe_load((ROOT / "helm/ryzanstein/values.yaml").read_text())))
    return {path.split(".", cut)[-1] for path in paths for cut in range(1, path.count(".") + 1)}


KNOWN = known()
HOLDERS = {path.partition(".")[0] for path in KNOWN if "." in path}
"""What a path may begin with; other words with a dot in them are names of something else."""


def fields(page: Path) -> list[str]:
    """The paths that a page names, whatever value stands behind them."""
    names = [re.split("[:=]", words)[0] for words in quoted(page)]
    paths = [name for name in names if DOTTED.fullmatch(name) and name.partition(".")[0] in HOLDERS]
    return [name for name in paths if not name.endswith(".md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_fields_and_values_that_are_named_exist(page: Path) -> None:
    assert [name for name in fields(page) if name not in KNOWN] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_plugin_can_be_typed(page: Path) -> None:
    for words in quoted(page):
        if words.startswith("kubectl ryzanstein ") and "[" not in words:
            parser().parse_args(shlex.split(words)[2:])


def test_there_is_something_to_look_at() -> None:
    assert sum(len(fields(page)) for page in PAGES) > 100
    commands = [words for page in PAGES for words in quoted(page) if words.startswith("kubectl ryzanstein ")]
    assert len(commands) >= 3
