"""The tree of `status` on a terminal: one table for all services, and under it what needs attention."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ryzanstein_kubectl.model.ages import short
from ryzanstein_kubectl.model.pages import Load, Rank
from ryzanstein_kubectl.model.tree import Concern, Mood, Pod, Replica, Revision, Service
from ryzanstein_kubectl.view.scaling_view import scaling_cells
from ryzanstein_kubectl.view.terminal import STYLES, add_row, dash, mark, percent, table

COLUMNS = ("NAME", "STATE", "NODE", "AGE", "RESTARTS", "RUN", "WAIT", "KV")
NUMBERS = ("RESTARTS", "RUN", "WAIT", "KV")
LATE_SECONDS = 3.0
"""A rank beats several times a second; one that has been silent for so long is told apart from the others."""

ItemT = TypeVar("ItemT")
_WORSE: tuple[Mood, ...] = ("good", "waiting", "leaving", "bad")
_GUIDES = {False: ("├─ ", "└─ ", "│  "), True: ("|- ", "`- ", "|  ")}


def tree_view(services: Sequence[Service], notes: Sequence[str], *, plain: bool) -> RenderableType:
    """Everything, ready to print."""
    if not services:
        return Group(Text("No InferenceServices here; -n names another namespace, -A shows all."), *_notes(notes))
    rows = table(*COLUMNS, right=NUMBERS, give=("NAME", "STATE", "NODE"))
    for index, service in enumerate(services):
        if index:
            add_row(rows, "")
        _add_service(rows, service, plain)
    told = [part for service in services for part in _told(service, plain, named=len(services) > 1)]
    return Group(rows, *([Text()] if told else []), *told, *_notes(notes))


def _notes(notes: Sequence[str]) -> list[Text]:
    return [Text(), *(Text(note, "dim") for note in notes)] if notes else []


def _add_service(rows: Table, service: Service, plain: bool) -> None:
    name = Text.assemble(mark(service.mood, plain=plain), " ", (f"{service.namespace}/{service.name}", "bold"))
    enough = STYLES["good" if service.ready >= service.wanted else service.mood]
    count = Text(f"{service.ready}/{service.wanted} ready", enough if service.wanted else "dim")
    add_row(rows, name, count, Text(service.uri, "dim"), short(service.age_seconds), "", "", "", "")
    if service.scaling:
        add_row(rows, *scaling_cells(service.scaling), "", "", "", "", "", "")
    for last, revision in _marked(service.revisions):
        _add_revision(rows, revision, last, plain)


def _add_revision(rows: Table, revision: Revision, last: bool, plain: bool) -> None:
    branch, end, bar = _GUIDES[plain]
    words = "current" if revision.current else "older"
    name = Text.assemble((end if last else branch, "dim"), f"revision {revision.name or '?'}")
    add_row(rows, name, Text(words, "" if revision.current else "yellow"), "", "", "", "", "", "")
    below = "   " if last else bar
    for final, replica in _marked(revision.replicas):
        stem, inner = (end, "   ") if final else (branch, bar)
        if replica.group:
            _add_group(rows, replica, below + stem, below + inner, plain)
        else:
            _add_pod(rows, replica.pods[0], below + stem, below + inner, replica.load, plain)


def _add_group(rows: Table, replica: Replica, lead: str, below: str, plain: bool) -> None:
    branch, end, bar = _GUIDES[plain]
    mood = max((pod.mood for pod in replica.pods), key=_WORSE.index)
    name = Text.assemble((lead, "dim"), mark(mood, plain=plain), " ", replica.name)
    state = Text("Ready" if replica.ready else "NotReady", STYLES[mood])
    add_row(rows, name, state, Text(f"{len(replica.pods)} pods", "dim"), "", "", *_load(replica.load))
    for last, pod in _marked(replica.pods):
        stem, inner = (end, "   ") if last else (branch, bar)
        _add_pod(rows, pod, below + stem, below + inner, None, plain, blank=True)


def _add_pod(
    rows: Table, pod: Pod, lead: str, below: str, load: Load | None, plain: bool, *, blank: bool = False
) -> None:
    name = Text.assemble((lead, "dim"), mark(pod.mood, plain=plain), " ", pod.name)
    restarts = Text(str(pod.restarts), "yellow" if pod.restarts else "dim")
    cells = ("", "", "") if blank else _load(load)
    add_row(rows, name, Text(pod.state, STYLES[pod.mood]), _node(pod), short(pod.age_seconds), restarts, *cells)
    for last, (words, state, style) in _marked(list(_rank_lines(pod.ranks))):
        guide = _GUIDES[plain][1 if last else 0]
        add_row(rows, Text.assemble((below + guide, "dim"), (words, style)), Text(state, style))


def _node(pod: Pod) -> Text:
    if not pod.node:
        return dash(None)
    return Text.assemble(pod.node, (f" ({pod.node_state})", "red") if pod.node_state else "")


def _load(load: Load | None) -> tuple[Text, Text, Text]:
    if load is None:
        return dash(None), dash(None), dash(None)
    return Text(str(load.running)), Text(str(load.waiting)), Text(percent(load.kv_cache_usage))


def _rank_lines(ranks: Sequence[Rank]) -> Iterator[tuple[str, str, str]]:
    """One line for all ranks that are well, one for each that is silent; none where there is but one."""
    if len(ranks) < 2 and not any(rank.age_seconds >= LATE_SECONDS for rank in ranks):
        return
    well = [rank for rank in ranks if rank.age_seconds < LATE_SECONDS]
    if well:
        word = "rank" if len(well) == 1 else "ranks"
        states = ", ".join(sorted({rank.state for rank in well}))
        yield f"{word} {spans(rank.rank for rank in well)}", states, "dim"
    for rank in ranks:
        if rank.age_seconds >= LATE_SECONDS:
            yield f"rank {rank.rank}", f"{rank.state}, silent for {rank.age_seconds:.0f}s", "red"


def spans(numbers: Iterable[int]) -> str:
    """ "0-3, 5": numbers in order, neighbours drawn together."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _marked(items: Sequence[ItemT]) -> Iterator[tuple[bool, ItemT]]:
    """Each item with whether it is the last."""
    for index, item in enumerate(items):
        yield index == len(items) - 1, item


# --- what needs attention ------------------------------------------------------------------------------


def _told(service: Service, plain: bool, *, named: bool) -> Iterator[RenderableType]:
    parts = [
        *_operation(service),
        *(_concern(concern, plain) for concern in service.concerns),
        *_nodes(service, plain),
        *_broken(service, plain),
        *_failure(service),
    ]
    if parts and named:
        yield Text(f"{service.namespace}/{service.name}", "bold")
    for part in parts:
        yield Padding(part, (0, 0, 0, 2 if named else 0), expand=False)


def _operation(service: Service) -> Iterator[RenderableType]:
    if operation := service.operation:
        tries = f", try {operation.tries}" if operation.tries > 1 else ""
        left = "" if operation.seconds_left is None else f", {_left(operation.seconds_left)}"
        about = f" of {operation.target}" if operation.target else ""
        words = f"{operation.type}: {operation.step}{about}{tries}{left}"
        yield Text.assemble(("Under way  ", "cyan"), words)
        if operation.message:
            yield Padding(Text(operation.message), (0, 0, 0, 2), expand=False)


def _left(seconds: float) -> str:
    return f"{short(seconds)} left" if seconds >= 0 else f"{short(-seconds)} over its time"


def _concern(concern: Concern, plain: bool) -> RenderableType:
    style = STYLES[concern.mood]
    which = ", ".join(concern.conditions)
    since = f" for {short(concern.since_seconds)}" if concern.since_seconds is not None else ""
    head = Text.assemble(mark(concern.mood, plain=plain), " ", (concern.reason, style), (f"  {which}{since}", "dim"))
    lines: list[RenderableType] = [head]
    lines += [Padding(Text(message), (0, 0, 0, 2), expand=False) for message in concern.messages]
    if concern.remedy and concern.mood == "bad":
        arrow = "-> " if plain else "→ "
        lines.append(
            Padding(Text.assemble((arrow, "bold"), concern.remedy.replace("`", "")), (0, 0, 0, 2), expand=False)
        )
    return Group(*lines)


def _nodes(service: Service, plain: bool) -> Iterator[RenderableType]:
    for node in service.unhealthy_nodes:
        since = f" for {short(node.since_seconds)}" if node.since_seconds is not None else ""
        head = Text.assemble(mark("bad", plain=plain), " ", (node.reason, "red"), (f"  node {node.name}{since}", "dim"))
        yield Group(head, Padding(Text(node.message), (0, 0, 0, 2), expand=False))


def _broken(service: Service, plain: bool) -> Iterator[RenderableType]:
    """Pods whose trouble no condition names (yet)."""
    said = {concern.reason for concern in service.concerns}
    for revision in service.revisions:
        for replica in revision.replicas:
            for pod in replica.pods:
                if pod.mood == "bad" and pod.detail and pod.state not in said:
                    yield Text.assemble(
                        mark("bad", plain=plain), " ", (pod.state, "red"), f"  {pod.name}: {pod.detail}"
                    )


def _failure(service: Service) -> Iterator[RenderableType]:
    if failure := service.last_failure:
        about = f" of {failure.target}" if failure.target else ""
        yield Text(f"Last failure, {short(failure.seconds_ago)} ago: {failure.reason}{about}: {failure.message}", "dim")
