"""`python -m ryzanstein_gateway`: settings in, exit code out. Knows the process, nothing of requests."""

import asyncio
import signal
import sys

import uvloop

from ryzanstein_gateway.logs import configure_logging
from ryzanstein_gateway.server import Gateway
from ryzanstein_gateway.settings import Settings, SettingsError, read_settings
from ryzanstein_worker.contract import EXIT_CONFIG


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Gateway(settings).run(stop)


def main() -> int:
    """Run until SIGTERM or SIGINT has been obeyed: 0; 78 when a setting is wrong."""
    try:
        settings = read_settings()
    except SettingsError as error:
        configure_logging("INFO")
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    configure_logging(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
