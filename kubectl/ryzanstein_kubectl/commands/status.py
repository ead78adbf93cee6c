"""`status`: the tree of services, revisions, replicas, pods and ranks, once or live."""

import argparse
import asyncio

from rich.console import RenderableType

from ryzanstein_kubectl.cluster.look import Looker
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.commands.common import access_of, interval, scope_of, show_live
from ryzanstein_kubectl.model.build import tree
from ryzanstein_kubectl.view.terminal import console, show, to_json
from ryzanstein_kubectl.view.tree_view import tree_view

HELP = "show services as a tree: revisions, replicas, pods, ranks, nodes, load, and what needs attention"
EXAMPLES = """examples:
  kubectl ryzanstein status              all services of the namespace
  kubectl ryzanstein status chat -w      one of them, live
  kubectl ryzanstein status -A -o json   everything, for programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one InferenceService; left out, all")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing it, live on a terminal")
    parser.add_argument(
        "--interval", type=interval, default=2.0, help="seconds from look to look, default: %(default)s"
    )


async def run(arguments: argparse.Namespace) -> int:
    session = await Session.open(access_of(arguments))
    try:
        scope = scope_of(arguments, session)
        looker = Looker(session, scope)
        if arguments.output == "json":
            await _json(looker, arguments)
            return 0
        terminal = console()

        async def look() -> RenderableType:
            snapshot = await looker.status()
            return tree_view(tree(snapshot), snapshot.notes, plain=terminal.options.ascii_only)

        if arguments.watch:
            await show_live(terminal, look, f"status of {scope}", arguments.interval)
        show(terminal, await look())
        return 0
    finally:
        await session.close()


async def _json(looker: Looker, arguments: argparse.Namespace) -> None:
    """One object, or with --watch one a line."""
    while True:
        snapshot = await looker.status()
        print(to_json({"services": tree(snapshot), "notes": snapshot.notes}), flush=True)
        if not arguments.watch:
            return
        await asyncio.sleep(arguments.interval)
