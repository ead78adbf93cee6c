"""`python -m ryzanstein_gateway`: settings in, exit code out. Knows the process, nothing of requests.

With more than one process it is the parent that starts the others, which are run as `member`.
"""

import signal

if __name__ == "__main__":
    # Before the imports, which take a while: a signal that asks for another log level must not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from ryzanstein_gateway.exposition import share_counts
from ryzanstein_gateway.level import Level
from ryzanstein_gateway.logs import configure_logging
from ryzanstein_gateway.member import Place
from ryzanstein_gateway.processes import Parent
from ryzanstein_gateway.settings import Settings, SettingsError, read_settings
from ryzanstein_gateway.tls import certificate_of
from ryzanstein_worker.contract import EXIT_CONFIG

_COLLECT_AFTER: Final = 10_000
"""So many more objects made than freed: nearly everything of a request is freed at once, by its counts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT has been obeyed: 0; 78 when a setting is wrong; 1 when no process can live. SIGUSR1
    and SIGUSR2 change the log's level meanwhile."""
    place = _place(arguments)
    try:
        settings = read_settings()
        certificate_of(settings)  # said once and clearly, rather than by every process
    except SettingsError as error:
        configure_logging("INFO")
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    configure_logging(settings.log_level, place.slot if place else None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, place))


async def _run(settings: Settings, place: Place | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    level = Level(settings.log_level)
    for number, debug in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
        asyncio.get_running_loop().add_signal_handler(number, level.debug, debug)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1, signal.SIGUSR2))  # one that came early comes now
    if place is None and settings.processes > 1:
        return await Parent(settings, level).run(stop)
    # The parent stays small: it never imports what serves.
    from ryzanstein_gateway.server import Gateway

    _spare_collector()
    if place is None:
        await Gateway(settings, None, level).run(stop)
    else:
        share_counts(place.directory, place.slot)
        await Gateway(_settings_of(settings, place), place, level).run(stop)
    return 0


def _spare_collector() -> None:
    """Keep the garbage collector from looking again and again at what lives as long as the process, or a stream."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


def _settings_of(settings: Settings, place: Place) -> Settings:
    """A member's settings: its place, and its part of what is bounded for all."""
    share = -(-settings.max_connections // settings.processes)
    return replace(settings, slot=place.slot, shared_dir=place.directory, max_connections=share)


def _place(arguments: Sequence[str] | None) -> Place | None:
    parser = argparse.ArgumentParser(prog="ryzanstein_gateway")
    member = parser.add_subparsers(dest="role").add_parser("member", help="one of several processes; for the parent")
    member.add_argument("--slot", type=int, required=True)
    member.add_argument("--port", type=int, required=True)
    member.add_argument("--directory", type=Path, required=True)
    member.add_argument("--channel", type=int, required=True)
    given = parser.parse_args(arguments)
    if given.role is None:
        return None
    return Place(slot=given.slot, port=given.port, directory=given.directory, channel=given.channel)


if __name__ == "__main__":
    sys.exit(main())
