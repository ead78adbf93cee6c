"""The splitters: whole events only, each with its marker, however the bytes come."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzanstein_gateway.journal import (
    MAX_HELD_BYTES,
    Closing,
    EventSplitter,
    Journal,
    JournalSplitter,
    Splitter,
    StreamError,
)

EVENT = b'data: {"text":"one"}\n\n'
OTHER = b'data: {"text":"two"}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'event: error\ndata: {"error":{}}\n\n'


def journal() -> Journal:
    """An empty one."""
    return Journal.parse(b"cmpl-1 1700000000 42")


def state(splitter: JournalSplitter) -> tuple[Closing | None, dict[int, tuple[list[int], int]], int]:
    """All that a splitter knows."""
    choices = {index: (one.token_ids.tolist(), one.num_cached) for index, one in splitter.journal.choices.items()}
    return splitter.closing, choices, splitter.journal.num_tokens


def feed(splitter: Splitter, *pieces: bytes) -> bytes:
    """What leaves."""
    return b"".join([splitter.feed(piece) for piece in pieces])


@pytest.mark.parametrize(
    ("stream", "leaves", "closing", "choices"),
    [
        (b"", b"", None, {}),
        (EVENT, b"", None, {}),
        (EVENT + b":c 0 3 17 5\n\n", EVENT, None, {0: ([17, 5], 3)}),
        (EVENT + b":c 0 3 17\n", b"", None, {}),
        (b":c 1 0 9\n\n", b"", None, {1: ([9], 0)}),
        (b":c 1 0 9\n\n" + EVENT + OTHER + b":c 1 0 4294967295\n\n", EVENT + OTHER, None, {1: ([9, 2**32 - 1], 0)}),
        (b":c 0 2 1\n\n" + EVENT + DONE, EVENT + DONE, Closing.DONE, {0: ([1], 2)}),
        (DONE + EVENT + b":c 0 0 1\n\n", DONE, Closing.DONE, {}),
        (EVENT + b":c 0 0 1\n\n" + ERROR, EVENT + ERROR, Closing.ERROR, {0: ([1], 0)}),
        (EVENT + b":c 0 0 1\n\n" + OTHER + b":lost crash\n\n", EVENT, Closing.LOST_CRASH, {0: ([1], 0)}),
        (OTHER + b":lost drain\n\n" + OTHER, b"", Closing.LOST_DRAIN, {}),
        (b": ping\n\n" + EVENT + b":c 0 0 1\n\n", b": ping\n\n" + EVENT, None, {0: ([1], 0)}),
    ],
)  # fmt: skip
def test_events_leave_with_their_marker(
    stream: bytes, leaves: bytes, closing: Closing | None, choices: dict[int, tuple[list[int], int]]
) -> None:
    splitter = JournalSplitter(journal())
    assert feed(splitter, stream) == leaves
    assert state(splitter) == (closing, choices, sum(len(tokens) for tokens, _ in choices.values()))


def test_a_text_that_looks_like_a_marker_or_an_end_is_a_text() -> None:
    text = json.dumps({"text": "\n\n:c 0 0 1\n\ndata: [DONE]\n\n:lost crash\n\nevent: error"}).encode()
    event = b"data: " + text + b"\n\n"
    splitter = JournalSplitter(journal())
    assert feed(splitter, event, b":c 0 0 7\n\n") == event
    assert state(splitter) == (None, {0: ([7], 0)}, 1)
    plain = EventSplitter()
    event = b'data: {"text":"data: [DONE]\\n\\n"}\n\n'
    assert feed(plain, b"data: data: [DONE]\n\n", event) == b"data: data: [DONE]\n\n" + event
    assert plain.closing is None


MARKERS = st.builds(
    lambda index, cached, tokens: b":c %d %d %b\n\n" % (index, cached, b" ".join(b"%d" % one for one in tokens)),
    st.integers(0, 3), st.integers(0, 9), st.lists(st.integers(0, 2**32 - 1), max_size=3),
)  # fmt: skip
EVENTS = st.sampled_from([EVENT, OTHER, b": ping\n\n", b'event: x\nid: 1\ndata: {"a":"\xc3\xa9"}\n\n'])
CLOSINGS = st.sampled_from([b"", DONE, ERROR, b":lost crash\n\n", b":lost drain\n\n"])


@given(st.lists(MARKERS | EVENTS, max_size=8), CLOSINGS, st.lists(EVENTS | MARKERS, max_size=2), st.data())
def test_no_cut_of_the_bytes_changes_anything(
    parts: list[bytes], closing: bytes, after: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join([*parts, closing, *after])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    for make in (lambda: JournalSplitter(journal()), EventSplitter):
        whole, cut = make(), make()
        assert feed(cut, *pieces) == feed(whole, stream)
        assert cut.closing is whole.closing
        if isinstance(whole, JournalSplitter) and isinstance(cut, JournalSplitter):
            assert state(cut) == state(whole)


@given(st.lists(MARKERS | EVENTS, max_size=8), st.data())
def test_what_has_left_is_what_is_written_down(parts: list[bytes], data: st.DataObject) -> None:
    """At any time: the events before the last marker that has come, and no other."""
    stream = b"".join(parts)
    upto = data.draw(st.integers(0, len(stream)))
    splitter = JournalSplitter(journal())
    left = splitter.feed(stream[:upto])
    whole, tokens = b"", 0
    pending, position = b"", 0
    for part in parts:
        position += len(part)
        if position > upto:
            break
        if part.startswith(b":c "):
            whole, pending = whole + pending, b""
            tokens += len(part.split()) - 3
        else:
            pending += part
    assert left == whole
    assert splitter.journal.num_tokens == tokens


@pytest.mark.parametrize(
    ("pieces", "leaves", "closing"),
    [
        ([EVENT[:-1], EVENT[-1:] + OTHER[:5]], EVENT, None),
        ([b"data: 1\r\n\r\ndata: 2\r\n", b"\r\n"], b"data: 1\r\n\r\ndata: 2\r\n\r\n", None),
        ([b"data: 1\r\rdata: 2\r"], b"data: 1\r\r", None),
        ([EVENT + DONE + EVENT, EVENT], EVENT + DONE, Closing.DONE),
        ([EVENT + DONE, EVENT], EVENT + DONE, Closing.DONE),
        ([EVENT, b"data: [DO", b"NE]\r\n\r\n"], EVENT + b"data: [DONE]\r\n\r\n", Closing.DONE),
    ],
)
def test_any_servers_events_leave_whole(pieces: list[bytes], leaves: bytes, closing: Closing | None) -> None:
    splitter = EventSplitter()
    assert feed(splitter, *pieces) == leaves
    assert splitter.closing is closing


@pytest.mark.parametrize("make", [lambda: JournalSplitter(journal()), EventSplitter])
def test_what_is_held_back_is_bounded(make: type[EventSplitter]) -> None:
    splitter = make()
    assert splitter.feed(b"x" * MAX_HELD_BYTES) == b""
    with pytest.raises(StreamError):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    "marker", [b":c \n\n", b":c 0\n\n", b":c 0 x 1\n\n", b":c 0 0 -1\n\n", b":c 0 0 4294967296\n\n"]
)
def test_a_marker_that_cannot_be_read_ends_the_stream(marker: bytes) -> None:
    with pytest.raises(StreamError):
        JournalSplitter(journal()).feed(EVENT + marker)


@pytest.mark.parametrize("header", [b"", b"a", b"a 1", b"a 1 x", b"a 1 2 3", b"\xff 1 2"])
def test_a_header_that_cannot_be_read_ends_the_stream(header: bytes) -> None:
    with pytest.raises(StreamError):
        Journal.parse(header)


def test_a_token_takes_four_bytes() -> None:
    assert array("I").itemsize == 4
