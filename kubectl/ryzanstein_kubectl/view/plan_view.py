"""A plan on a terminal: each change in words, and its diff in the usual colours."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from ryzanstein_kubectl.model.changes import Change
from ryzanstein_kubectl.model.tree import Concern

_ACTIONS = {"create": "green", "change": "yellow", "delete": "red"}


def plan_view(changes: Sequence[Change], concerns: Sequence[Concern], notes: Sequence[str]) -> Iterator[Text]:
    """The lines to print."""
    for change in changes:
        style = _ACTIONS.get(change.action, "cyan")
        yield Text.assemble((change.action, f"bold {style}"), f" {change.about}", (f"  {change.why}", "dim"))
        for line in change.diff.splitlines()[2:]:
            yield Text(f"  {line}", _colour(line))
    if changes:
        yield Text()
    for concern in concerns:
        yield Text.assemble((concern.reason, "red"), f": {'; '.join(concern.messages)}")
        if concern.remedy:
            yield Text("  " + concern.remedy.replace("`", ""))
    for note in notes:
        yield Text(note, "dim")
    yield Text(
        "No change." if not changes else "1 change." if len(changes) == 1 else f"{len(changes)} changes.", "bold"
    )


def _colour(line: str) -> str:
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
