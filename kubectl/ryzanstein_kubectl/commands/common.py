"""What several commands share: the scope that the flags name, and a view that goes on."""

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ryzanstein_kubectl.cluster.look import Scope
from ryzanstein_kubectl.cluster.session import Access, Session
from ryzanstein_kubectl.view.terminal import show
from ryzanstein_operator.cluster.client import ApiError

MIN_INTERVAL_SECONDS = 0.5


def access_of(arguments: argparse.Namespace) -> Access:
    """What the common flags say of the cluster."""
    return Access(arguments.kubeconfig, arguments.context, arguments.namespace)


def scope_of(arguments: argparse.Namespace, session: Session) -> Scope:
    """What the common flags and an optional NAME say of the services."""
    name = getattr(arguments, "name", None) or ""
    return Scope("" if arguments.all_namespaces and not name else session.namespace, name)


def interval(text: str) -> float:
    """An argument's seconds between two looks. Raises argparse.ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not MIN_INTERVAL_SECONDS <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {MIN_INTERVAL_SECONDS} to 3600")
    return seconds


async def show_live(
    console: Console, look: Callable[[], Awaitable[RenderableType]], title: str, every_seconds: float
) -> None:
    """Shows what `look` gives again and again, until Ctrl-C; the last view then stays on the terminal.

    A look that fails once the first was there leaves the old view standing, with the reason under it.
    """
    if not console.is_terminal:
        while True:
            show(console, await look())
            print(flush=True)
            await asyncio.sleep(every_seconds)
    shown = await look()
    with contextlib.ExitStack() as after:
        after.callback(lambda: console.print(shown))
        live = after.enter_context(Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop"))
        fault = ""
        while True:
            live.update(_framed(shown, title, fault), refresh=True)
            await asyncio.sleep(every_seconds)
            try:
                shown, fault = await look(), ""
            except ApiError as error:
                fault = error.sentence


def _framed(view: RenderableType, title: str, fault: str) -> RenderableType:
    head = Text(f"{title}  {datetime.now().astimezone():%H:%M:%S}  (Ctrl-C ends)", "dim")
    return Group(head, Text(), view, *([Text(), Text(f"Not up to date: {fault}", "red")] if fault else []))
