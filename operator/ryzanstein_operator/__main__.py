"""The command line: run the operator, print a Plan, or write the CRDs. Each command imports only what it needs."""

import argparse
import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from ryzanstein_worker import contract

logger = logging.getLogger("ryzanstein_operator")

LAST_SECONDS: Final = 10.0
"""From the operator's end to that of its event loop, at most."""
_EPILOG = (
    "commands:\n  plan   print what the operator would do for a file\n  crds   write the custom resource definitions"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives the process' exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["plan"]:
        from ryzanstein_operator import plan

        return plan.main(words[1:])
    if words[:1] == ["crds"]:
        from ryzanstein_operator.api import crd

        return crd.main(words[1:])
    options = _parser().parse_args(words)
    return _run(options.host, options.port, options.demand_port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ryzanstein_operator",
        description="Run the operator; its settings are RYZANSTEIN_* environment variables.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address of the probes and metrics (default: every one)")
    parser.add_argument("--port", type=int, default=contract.HEALTH_PORT, help="their port (default: %(default)s)")
    parser.add_argument(
        "--demand-port",
        type=int,
        default=contract.DEMAND_PORT,
        help="where gateways speak to the operator (default: %(default)s)",
    )
    return parser


def _to_the_end(serving: Coroutine[Any, Any, None]) -> None:
    """Run until it ends. What hangs when all else has ended must not keep a process that does nothing any more."""
    last = threading.Timer(LAST_SECONDS, os._exit, (1,))
    last.daemon = True

    async def to_its_end() -> None:
        try:
            await serving
        finally:
            last.start()

    try:
        asyncio.run(to_its_end())
    finally:
        last.cancel()


def _run(host: str, port: int, demand_port: int) -> int:
    from ryzanstein_operator import logs

    level = os.environ.get(contract.ENV_LOG_LEVEL) or "info"
    try:
        logs.setup(level)
    except ValueError as error:
        logger.error("The operator cannot start", extra={"error": str(error)})
        return 1
    with logs.signals(level):  # before the imports, which take a second: unheard, these signals end a process
        return _serve(host, port, demand_port)


def _serve(host: str, port: int, demand_port: int) -> int:
    from ryzanstein_operator.cluster.client import ApiError
    from ryzanstein_operator.cluster.lease import LeadershipLostError
    from ryzanstein_operator.handlers.run import serve
    from ryzanstein_operator.settings import Settings, SettingsError

    try:
        _to_the_end(serve(Settings.from_environment(os.environ), host, port, demand_port))
    except (SettingsError, ApiError, OSError, ValueError) as error:
        logger.error("The operator cannot start", extra={"error": str(error)})
        return 1
    except LeadershipLostError as error:
        logger.warning("Another process leads; this one ends, to be started anew", extra={"error": str(error)})
        return 1
    except Exception:
        logger.exception("The operator ends, to be started anew")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
