"""A log line on a terminal: each pod in a colour of its own, the rest calm."""

from datetime import UTC, datetime

from rich.text import Text

from ryzanstein_kubectl.model.ages import NANOS
from ryzanstein_kubectl.model.logs import LogLine

PALETTE = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")
_LEVELS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}


class LogView:
    """Remembers which pod has which colour."""

    def __init__(self, service: str) -> None:
        self._prefix = f"{service}-"
        self._colours: dict[str, str] = {}
        self._width = 0

    def line(self, line: LogLine) -> Text:
        """The line, and under it the traceback if it has one."""
        colour = self._colours.setdefault(line.pod, PALETTE[len(self._colours) % len(PALETTE)])
        short = line.pod.removeprefix(self._prefix)
        self._width = max(self._width, len(short))
        text = Text.assemble((short.ljust(self._width), colour), " ", (self._who(line), "dim"), " ")
        if line.note:
            return text.append(f"-- {line.message} --", "bold")
        text.append(f"{clock(line.nanos)} ", "dim")
        text.append(f"{line.level[:7]:<7} " if line.level else "", _LEVELS.get(line.level, "dim"))
        text.append(line.message, _LEVELS.get(line.level, ""))
        for key, value in line.fields:
            text.append(f" {key}=", "dim").append(value, "dim")
        return text.append(f"\n{line.exception}", "dim") if line.exception else text

    @staticmethod
    def _who(line: LogLine) -> str:
        """The rank, or what else wrote it; three columns."""
        if line.rank is not None:
            return f"r{line.rank}".ljust(3)
        return "get" if line.container == "fetch" else "   "


def clock(nanos: int) -> str:
    """The time of day here, to the millisecond."""
    return datetime.fromtimestamp(nanos / NANOS, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
