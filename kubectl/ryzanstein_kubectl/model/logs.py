"""Lines of workers' logs: read, chosen, and merged by time. Pure; knows no stream.

A worker writes one JSON object a line with `ts`, `level`, `message`, and where a rank writes, `rank` and `epoch`. What
is no JSON (a crash's last words) is kept as it is.
"""

import heapq
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ryzanstein_kubectl.model.ages import NANOS, parse_nanos

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
HOLD_NANOS = 400_000_000
"""How long a line that is followed is held back, so that one of another pod that is a little older goes before it."""
_NAMED = ("ts", "level", "message", "logger", "rank", "exception")


@dataclass(frozen=True)
class LogLine:
    """One line. nanos: when it was written, since 1970; read_nanos: when the kubelet took it, by which reading goes on.

    rank is None where the server process wrote; level is empty where it is not known; note: the plugin's own words.
    """

    nanos: int
    read_nanos: int
    pod: str
    container: str
    rank: int | None
    level: str
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    exception: str = ""
    note: bool = False


def parse_line(pod: str, container: str, text: str) -> LogLine:
    """Reads a line as a kubelet gives it with timestamps=true."""
    stamp, _, rest = text.partition(" ")
    read = parse_nanos(stamp)
    if read is None:  # a kubelet's own complaint, or the middle of a line that was cut
        read, rest = 0, text
    try:
        record = json.loads(rest)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "message" not in record:
        return LogLine(read, read, pod, container, None, "", rest)
    rank = record.get("rank")
    return LogLine(
        nanos=parse_nanos(str(record.get("ts", ""))) or read,
        read_nanos=read,
        pod=pod,
        container=container,
        rank=rank if isinstance(rank, int) else None,
        level=str(record.get("level", "")),
        message=str(record["message"]),
        fields=tuple((key, _text(value)) for key, value in record.items() if key not in _NAMED),
        exception=str(record.get("exception", "")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Wanted:
    """Which lines are shown. rank: that rank's alone; level: this one and what is worse, and what has no level."""

    rank: int | None = None
    level: str = ""

    def keeps(self, line: LogLine) -> bool:
        if line.note:
            return True
        if self.rank is not None and line.rank != self.rank:
            return False
        return not self.level or LEVELS.get(line.level, LEVELS["critical"]) >= LEVELS[self.level]


class Merger:
    """Brings the lines of many streams into the order of their times; those of one stream keep the order they have.

    `now` and `arrived` are nanoseconds of one clock, any.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, LogLine]] = []
        self._latest: dict[tuple[str, str], int] = {}
        self._count = itertools.count()

    def push(self, line: LogLine, arrived: int = 0) -> None:
        stream = (line.pod, line.container)
        key = max(line.nanos, self._latest.get(stream, 0))
        self._latest[stream] = key
        heapq.heappush(self._heap, (key, next(self._count), arrived, line))

    def pop(self, now: int) -> Iterator[LogLine]:
        """What has been held back for long enough, and all that is older."""
        due = [key for key, _, arrived, _ in self._heap if now - arrived >= HOLD_NANOS]
        limit = max(due, default=-1)
        while self._heap and self._heap[0][0] <= limit:
            yield heapq.heappop(self._heap)[3]

    def rest(self) -> Iterator[LogLine]:
        """Everything that is left."""
        while self._heap:
            yield heapq.heappop(self._heap)[3]


def end_note(pod: str, container: str, ended: Mapping[str, object]) -> LogLine:
    """What is said where a container ended: with which exit code, and the sentence it left."""
    code, reason = ended.get("exitCode"), str(ended.get("reason") or "")
    words = f"container {container} ended with exit code {code}" + (
        f" ({reason})" if reason not in ("", "Error") else ""
    )
    sentence = " ".join(str(ended.get("message") or "").split())
    words += f": {sentence[:300]}" if sentence and not sentence.startswith("{") else ""
    # The API gives whole seconds; the end is never before the last line, which the order within a stream sees to.
    nanos = (parse_nanos(str(ended.get("finishedAt", ""))) or 0) + NANOS - 1
    return LogLine(nanos, 0, pod, container, None, "", words, note=True)
