"""Writes every dashboard into the folders named: python -m ryzanstein_dashboards FOLDER [FOLDER ...]"""

import sys
from pathlib import Path

from ryzanstein_dashboards.pages import PAGES, file_name
from ryzanstein_dashboards.render import render


def main() -> None:
    """Write the files; what else was in a folder and ends in .json goes."""
    files = {file_name(page): render(page) for page in PAGES}
    for folder in map(Path, sys.argv[1:]):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in set(folder.glob("*.json")) - {folder / name for name in files}:
            stale.unlink()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
