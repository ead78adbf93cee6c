"""`python -m ryzanstein_worker serve | fetch`: picks the command and turns its end into an exit code.

Imports a command's module only when it runs, so that `--help` needs neither torch nor the web server.
"""

import signal

if __name__ == "__main__":
    # Before the imports, which take a while: a signal that asks for another log level must not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from ryzanstein_worker.config import add_serve_arguments, serve_config
from ryzanstein_worker.contract import EXIT_CONFIG
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.telemetry.log_level import SWITCH
from ryzanstein_worker.telemetry.logs import configure_logging
from ryzanstein_worker.telemetry.termination import write_termination_log

logger = logging.getLogger("ryzanstein_worker")  # __name__ would be "__main__"

_USAGE = """usage: python -m ryzanstein_worker COMMAND ...

  serve   run a model behind an OpenAI-compatible API
  fetch   download a model into a directory

`python -m ryzanstein_worker COMMAND --help` lists a command's arguments."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong flag is the user's to mend, like a missing model: the same way out."""
        raise ConfigError(f"{message} (see `{self.prog} --help`).")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process' exit code."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        sys.stdout.write(_USAGE + "\n")
        return 0
    SWITCH.listen(configure_logging())
    try:
        return _run(command, rest)
    except ConfigError as error:
        sentence = str(error)
        logger.error(sentence)
        write_termination_log(sentence)
        return EXIT_CONFIG


def _run(command: str, arguments: list[str]) -> int:
    if command == "serve":
        parser = _Parser(prog="python -m ryzanstein_worker serve", allow_abbrev=False)
        add_serve_arguments(parser)
        config = serve_config(parser.parse_args(arguments))
        if config.group is not None and config.group.node_rank > 0:
            from ryzanstein_worker.server.headless import run as run_headless

            return run_headless(config, config.group)
        from ryzanstein_worker.server.app import run

        return run(config)
    if command == "fetch":
        from ryzanstein_worker.fetch import main as fetch

        return fetch(arguments)
    raise ConfigError(f"{command!r} is no command; there are serve and fetch.")


if __name__ == "__main__":
    sys.exit(main())
