"""`logs`: what all pods and ranks of a service wrote, merged by time, once or as it comes."""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ryzanstein_kubectl.cluster.log_streams import LogReader, Reach
from ryzanstein_kubectl.cluster.look import Scope, pods_of, services_of
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.commands.common import access_of
from ryzanstein_kubectl.model.ages import NANOS, parse_span
from ryzanstein_kubectl.model.logs import LEVELS, LogLine, Merger, Wanted
from ryzanstein_kubectl.view.log_view import LogView
from ryzanstein_kubectl.view.terminal import console, to_json
from ryzanstein_operator.api.wire import Manifest

HELP = "show the logs of all pods and ranks of a service, merged by time"
EXAMPLES = """examples:
  kubectl ryzanstein logs chat -f                         follow, new pods included
  kubectl ryzanstein logs chat --since 10m --level warning
  kubectl ryzanstein logs chat --rank 1 --tail -1         all that rank 1 wrote
"""
DEFAULT_TAIL = 100
TICK_SECONDS = 0.1
Show = Callable[[LogLine], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the InferenceService")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, from new pods too")
    parser.add_argument("--since", type=_span, help="nothing older than this: 30s, 10m, 2h")
    parser.add_argument(
        "--tail", type=int, help=f"last lines of each container, -1: all; default: {DEFAULT_TAIL}, with --since all"
    )
    parser.add_argument("--rank", type=int, help="this rank alone")
    parser.add_argument("--level", choices=sorted(LEVELS, key=LEVELS.__getitem__), default="", help="this and worse")


def _span(text: str) -> int:
    seconds = parse_span(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30s, 10m or 2h")
    return seconds


async def run(arguments: argparse.Namespace) -> int:
    session = await Session.open(access_of(arguments))
    try:
        scope = Scope(session.namespace, arguments.name)
        await services_of(session, scope)
        pods = await pods_of(session, scope)
        reader = LogReader(session, lambda sentence: print(sentence, file=sys.stderr))
        show = _json if arguments.output == "json" else _text(arguments.name)
        wanted, merger = Wanted(arguments.rank, arguments.level), Merger()
        lines = await reader.history(pods, _reach(arguments))
        for line in lines:
            merger.push(line)
        _show(merger.rest(), wanted, show)
        if arguments.follow:
            await _follow(reader, scope, pods, lines, wanted, show)
        elif not pods:
            print(f"{arguments.name} has no pods.", file=sys.stderr)
        return 0
    finally:
        await session.close()


def _reach(arguments: argparse.Namespace) -> Reach:
    tail = arguments.tail
    if tail is None and arguments.since is None:
        tail = DEFAULT_TAIL
    return Reach(None if tail is None or tail < 0 else tail, arguments.since)


async def _follow(
    reader: LogReader, scope: Scope, pods: Iterable[Manifest], read: list[LogLine], wanted: Wanted, show: Show
) -> None:
    """Shows what comes, held back for a moment so that all pods' lines are in order. Ends with Ctrl-C."""
    merger = Merger()

    async with asyncio.TaskGroup() as group:
        group.create_task(reader.follow(scope, pods, read, lambda line: merger.push(line, time.monotonic_ns())))
        while True:
            _show(merger.pop(time.monotonic_ns()), wanted, show)
            await asyncio.sleep(TICK_SECONDS)


def _show(lines: Iterable[LogLine], wanted: Wanted, show: Show) -> None:
    for line in lines:
        if wanted.keeps(line):
            show(line)
    sys.stdout.flush()


def _text(service: str) -> Show:
    view, terminal = LogView(service), console()

    def show(line: LogLine) -> None:
        text = view.line(line)
        if terminal.is_terminal:
            terminal.print(text, soft_wrap=True)
        else:
            print(text.plain)

    return show


def _json(line: LogLine) -> None:
    moment = datetime.fromtimestamp(line.nanos / NANOS, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"time": moment, "pod": line.pod, "container": line.container, "rank": line.rank, "level": line.level}
    told |= {"message": line.message, "note": line.note, "exception": line.exception or None}
    print(to_json({key: value for key, value in told.items() if value is not None} | {"fields": dict(line.fields)}))
