"""`top`: what each replica has to do and how fast it is, live."""

import argparse
import asyncio

from rich.console import RenderableType

from ryzanstein_kubectl.cluster.look import Looker
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.commands.common import access_of, interval, scope_of, show_live
from ryzanstein_kubectl.model.rates import History, Row
from ryzanstein_kubectl.model.snapshot import Snapshot
from ryzanstein_kubectl.view.scaling_view import scaling_lines
from ryzanstein_kubectl.view.terminal import console, show, to_json
from ryzanstein_kubectl.view.top_view import top_view

HELP = "show the load of replicas, live: running, waiting, KV cache, tokens a second, time to the first token"
EXAMPLES = """TTFT P50 is over the requests of the last 30 seconds, TOKENS/S since the look before; "-" is not known.

examples:
  kubectl ryzanstein top                 all replicas of the namespace, live
  kubectl ryzanstein top chat --once     one look (two reads, --interval apart), for scripts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one InferenceService; left out, all")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    parser.add_argument("--once", action="store_true", help="print one table and end")
    parser.add_argument(
        "--interval", type=interval, default=2.0, help="seconds from read to read, default: %(default)s"
    )


async def run(arguments: argparse.Namespace) -> int:
    session = await Session.open(access_of(arguments))
    try:
        scope = scope_of(arguments, session)
        looker, history, terminal = Looker(session, scope), History(), console()
        rows: tuple[Row, ...] = ()
        if arguments.once or arguments.output == "json":
            history.take(await looker.load())
            while True:
                await asyncio.sleep(arguments.interval)
                snapshot = await looker.load()
                rows = history.take(snapshot)
                if arguments.output == "json":
                    print(to_json({"replicas": rows, "notes": snapshot.notes}), flush=True)
                else:
                    show(terminal, top_view(rows, _notes(snapshot), plain=terminal.options.ascii_only))
                if arguments.once:
                    return 0

        async def look() -> RenderableType:
            snapshot = await looker.load()
            return top_view(history.take(snapshot), _notes(snapshot), plain=terminal.options.ascii_only)

        await show_live(terminal, look, f"load in {scope}", arguments.interval)
        return 0
    finally:
        await session.close()


def _notes(snapshot: Snapshot) -> tuple[str, ...]:
    return (*scaling_lines(snapshot.services), *snapshot.notes)
