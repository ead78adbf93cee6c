"""What a stream has delivered, in tokens, and the splitters that keep it true while the bytes pass.

A worker's event stream with a journal (contract.HEADER_JOURNAL) has a marker after the events of each piece of output.
Events leave only with their marker, so that what the client has and what is written down here never differ: that is
what another replica is told to go on from. Pure: bytes in, bytes out; no JSON is parsed, no clock read.
"""

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from ryzanstein_worker.contract import MARK_COMMIT, MARK_LOST_CRASH, MARK_LOST_DRAIN

MAX_HELD_BYTES: Final = 4 * 1024 * 1024
"""Most of a stream that waits for its marker, or for an event's end: one piece of output is far smaller."""
_END: Final = b"\n\n"
_ENDS: Final = (_END, b"\r\n\r\n", b"\r\r")
_DONE: Final = b"data: [DONE]"
_ERROR: Final = b"event: error"


class StreamError(Exception):
    """A replica's stream is not what it has to be: a marker that cannot be read, or no end of an event."""


class Closing(Enum):
    """How a replica said that its stream ends."""

    DONE = "done"
    ERROR = "error"
    LOST_CRASH = "crash"
    LOST_DRAIN = "drain"


_LOST: Final = {MARK_LOST_CRASH: Closing.LOST_CRASH, MARK_LOST_DRAIN: Closing.LOST_DRAIN}


@dataclass(slots=True)
class Choice:
    """One choice of an answer. `num_cached`: prompt tokens that the first replica found in its cache."""

    token_ids: "array[int]" = field(default_factory=lambda: array("I"))
    num_cached: int = 0


@dataclass(slots=True)
class Journal:
    """All that another replica needs to go on with a stream: who the answer is, and the tokens that were delivered.

    `created` is in Unix seconds, `seed` the seed of the first choice. Four bytes a token.
    """

    id: str
    created: int
    seed: int
    choices: dict[int, Choice] = field(default_factory=dict)
    num_tokens: int = 0

    @classmethod
    def parse(cls, header: bytes) -> "Journal":
        """From the header's value. Raises StreamError."""
        try:
            answer_id, created, seed = header.decode("ascii").split(" ")
            return cls(answer_id, int(created), int(seed))
        except ValueError:
            raise StreamError("The journal's header cannot be read.") from None

    def commit(self, marker: bytes) -> None:
        """Write down what a marker says, which comes without its first word. Raises StreamError."""
        try:
            index, num_cached, *token_ids = map(int, marker.split())
            if index < 0:
                raise ValueError(index)
            choice = self.choices.get(index)
            if choice is None:
                choice = self.choices[index] = Choice()
            choice.token_ids.extend(token_ids)
        except (ValueError, OverflowError):
            raise StreamError("A marker of the journal cannot be read.") from None
        choice.num_cached = num_cached
        self.num_tokens += len(token_ids)


class Splitter(Protocol):
    """Takes a stream as it comes, gives it out in whole events."""

    @property
    def closing(self) -> Closing | None:
        """How the replica said that the stream ends; None as long as it has not. What comes after it is dropped."""
        ...

    def feed(self, piece: bytes) -> bytes:
        """The bytes that may go to the client now that this piece has come. Raises StreamError."""
        ...


class JournalSplitter:
    """Of a stream with a journal: events leave with their marker, markers stay here."""

    __slots__ = ("_held", "_seen", "closing", "journal")

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.closing: Closing | None = None
        self._held = b""
        self._seen = 0  # so many bytes of what is held are whole events

    def feed(self, piece: bytes) -> bytes:
        """As Splitter.feed."""
        data = self._held + piece if self._held else piece
        out: list[bytes] = []
        start, at = 0, self._seen
        while self.closing is None and (end := data.find(_END, at)) >= 0:
            after = end + len(_END)
            if data.startswith(MARK_COMMIT, at):
                self.journal.commit(data[at + len(MARK_COMMIT) : end])
                out.append(data[start:at])
                start = after
            elif (closing := _told(data[at:end])) is not None:
                self.closing = closing
                if closing in (Closing.DONE, Closing.ERROR):  # else what has no marker is the next replica's to say
                    out.append(data[start:after])
            at = after
        self._held, self._seen = (b"", 0) if self.closing else (data[start:], at - start)
        if len(self._held) > MAX_HELD_BYTES:
            raise StreamError("A replica's stream has no marker for too long.")
        return out[0] if len(out) == 1 else b"".join(out)


class EventSplitter:
    """Of a stream without a journal, which any server may have sent: whole events leave at once, as they are."""

    __slots__ = ("_held", "closing")

    def __init__(self) -> None:
        self.closing: Closing | None = None
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """As Splitter.feed. An event may end in any of the three ways that the standard allows."""
        if self.closing is not None:
            return b""
        data = self._held + piece if self._held else piece
        cut = max(data.rfind(end) + len(end) if end in data else 0 for end in _ENDS)
        whole, self._held = data[:cut], data[cut:]
        if len(self._held) > MAX_HELD_BYTES:
            raise StreamError("An event of a replica's stream does not end.")
        if _DONE in whole and (done := _end_of_done(whole)):
            self.closing, self._held = Closing.DONE, b""
            return whole[:done]
        return whole


def _told(event: bytes) -> Closing | None:
    if event.startswith(_DONE):
        return Closing.DONE
    if event.startswith(_ERROR):
        return Closing.ERROR
    return _LOST.get(event)


def _end_of_done(events: bytes) -> int:
    """Where the event [DONE] ends; 0 where it is but a text that says so: in JSON no line begins inside of a string."""
    at = events.find(_DONE)
    while at > 0 and events[at - 1] not in b"\r\n":
        at = events.find(_DONE, at + 1)
    if at < 0:
        return 0
    return min(found + len(end) for end in _ENDS if (found := events.find(end, at)) >= 0)
