"""Outcomes as tables in Markdown. Words and rounding only."""

from collections.abc import Sequence
from statistics import fmean

from bench.autoscaling.simulate import Outcome

HEAD = """\
| load | start-up | policy | replica-hours | late | slowest | longest queue | changes | first extra |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def row(title: str, start: float, outcomes: Sequence[Outcome]) -> str:
    """One policy under one load: means over the seeds, but the worst of all queues and waits."""
    firsts = [one.first for one in outcomes if one.first is not None]
    cells = (
        title,
        f"{start:.0f} s",
        outcomes[0].policy,
        f"{fmean(one.hours for one in outcomes):.1f}",
        f"{fmean(one.missed for one in outcomes):.1%}",
        f"{max(one.slowest for one in outcomes):.0f} s",
        f"{max(one.worst_queue for one in outcomes)}",
        f"{fmean(one.changes for one in outcomes):.0f}",
        f"{fmean(firsts):.0f} s" if firsts else "",
    )
    return f"| {' | '.join(cells)} |"
