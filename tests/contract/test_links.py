"""What the documentation points at is there: pages, headings, pictures, and the paths that other files name."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w\.(?:md|json)\b")
TEXTS = {".md", ".py", ".sh", ".tpl", ".txt", ".yaml", ".json", ".toml", ""}


@cache
def tracked() -> tuple[Path, ...]:
    """The repository's files, those that are not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return tuple(path for line in done.stdout.splitlines() if (path := ROOT / line).is_file())


PAGES = [path for path in tracked() if path.suffix == ".md"]


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a heading is called in a link, as GitHub makes it: the second of a name has -1 at its end."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return frozenset(names)


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    links = [one or other for one, other in LINK.findall(text)]
    return [link for link in links if not re.match("[a-z]+:", link) and not leads(page, link)]


def leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_of_the_documentation_that_code_chart_and_pages_name_is_there() -> None:
    named = {
        name: path
        for path in tracked()
        if path.suffix in TEXTS
        for name in NAMED.findall(path.read_text(errors="ignore"))
    }
    assert len(named) > 20
    assert {name: path.relative_to(ROOT) for name, path in named.items() if not (ROOT / name).exists()} == {}


def test_every_page_can_be_reached_from_the_first() -> None:
    """What no link leads to is not found."""
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for one, other in LINK.findall(page.read_text()):
            target = (page.parent / (one or other).partition("#")[0]).resolve()
            if target.is_dir():
                new |= set(target.glob("*.md")) - reached
            elif target.suffix == ".md" and target.exists() and target not in reached:
                new.add(target)
    documentation = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert {str(page.relative_to(ROOT)) for page in documentation - reached} == set()
