"""The log's level while the process runs: SIGUSR1 shows everything, SIGUSR2 what is configured.

Debugging shows our own loggers' DEBUG alone: those of libraries would print what users say (websockets prints each
frame) and Kubernetes' answers. They stay at what is configured, INFO at the lowest.
"""

import logging
from collections.abc import Callable
from typing import Final

OURS: Final = ("ryzanstein_gateway", "ryzanstein")

_log = logging.getLogger(__name__)


def apply(level: str) -> None:
    """Put a level in force. `level` is a name of logging's."""
    logging.getLogger().setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level]))
    for name in OURS:
        logging.getLogger(name).setLevel(level)


class Level:
    """The level in force. `changed` is called after each change, with whether everything is shown now."""

    def __init__(self, configured: str) -> None:
        self.debugging = False
        self.changed: Callable[[bool], None] = lambda debugging: None
        self._configured = configured

    def debug(self, wanted: bool, *, say: bool = True) -> None:
        """Show everything, or what is configured. `say`: log the change, where there is one: one line for each pod."""
        if wanted == self.debugging:
            return
        self.debugging = wanted
        if wanted:
            apply("DEBUG")
        if say:
            name = "DEBUG" if wanted else self._configured
            _log.info("the log's level is %s from now on", name)
        if not wanted:
            apply(self._configured)
        self.changed(wanted)
