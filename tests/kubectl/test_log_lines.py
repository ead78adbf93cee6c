"""Lines of all pods come in the order of their times, those of one pod in its own; nothing is lost or doubled."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ryzanstein_kubectl.model.logs import HOLD_NANOS, LogLine, Merger, Wanted, end_note, parse_line
from ryzanstein_kubectl.view.log_view import LogView

STAMP = "2026-01-02T03:04:05.000000009Z"


def line(nanos: int, pod: str = "a", **more: object) -> LogLine:
    values = {"rank": None, "level": "info", "message": "m"} | more
    return LogLine(nanos, nanos, pod, "worker", **values)  # type: ignore[arg-type]


def test_a_workers_line_is_taken_apart() -> None:
    record = {"ts": "2026-01-02T03:04:04.500Z", "level": "warning", "logger": "x", "message": "slow", "rank": 1, "n": 2}
    found = parse_line("chat-a", "worker", f"{STAMP} {json.dumps(record)}")
    assert (found.rank, found.level, found.message, found.fields) == (1, "warning", "slow", (("n", "2"),))
    assert found.read_nanos - found.nanos == 500_000_009


@pytest.mark.parametrize("text", ["Segmentation fault", "{broken", "[1]", '{"no": "message"}', ""])
def test_what_is_no_record_is_kept_as_it_is(text: str) -> None:
    found = parse_line("chat-a", "worker", f"{STAMP} {text}")
    assert (found.message, found.level, found.nanos % 1_000_000_000) == (text, "", 9)


def test_a_line_without_a_time_is_kept_too() -> None:
    assert parse_line("chat-a", "worker", "unexpected words").message == "unexpected words"


times = st.lists(st.integers(0, 50), max_size=20)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from("abc"), times))
def test_merged_lines_keep_each_streams_order_and_lose_none(streams: dict[str, list[int]]) -> None:
    merger = Merger()
    for pod, moments in streams.items():
        for index, moment in enumerate(moments):
            merger.push(line(moment, pod, message=str(index)))
    found = list(merger.rest())
    for pod, moments in streams.items():
        assert [one.message for one in found if one.pod == pod] == [str(index) for index in range(len(moments))]
    in_order = all(list(moments) == sorted(moments) for moments in streams.values())
    if in_order:
        assert [one.nanos for one in found] == sorted(one.nanos for one in found)


def test_a_line_is_held_back_for_an_older_one_of_another_pod() -> None:
    merger = Merger()
    merger.push(line(20, "a"), arrived=0)
    assert list(merger.pop(HOLD_NANOS - 1)) == []
    merger.push(line(10, "b"), arrived=HOLD_NANOS - 1)
    assert [one.nanos for one in merger.pop(HOLD_NANOS)] == [10, 20]


def test_ranks_and_levels_choose_and_notes_always_pass() -> None:
    lines = [
        line(1, rank=0, level="error"),
        line(2, rank=1, level="debug"),
        line(3, rank=1, level="warning"),
        line(4, level=""),
    ]
    note = end_note("a", "worker", {"exitCode": 70, "message": "rank 1 died", "finishedAt": STAMP})
    chosen = [[one.nanos for one in lines if wanted.keeps(one)] for wanted in (Wanted(1), Wanted(None, "warning"))]
    assert chosen == [[2, 3], [1, 3, 4]]
    assert Wanted(5, "critical").keeps(note)
    assert note.message == "container worker ended with exit code 70: rank 1 died"


def test_pods_have_colours_of_their_own_and_short_names() -> None:
    view = LogView("chat")
    texts = [view.line(line(1, f"chat-{pod}", rank=rank, exception="Boom")) for pod, rank in (("x", 0), ("y", None))]
    assert [text.plain.split(" ")[0] for text in texts] == ["x", "y"]
    assert texts[0].spans[0].style != texts[1].spans[0].style
    assert "r0" in texts[0].plain
    assert texts[0].plain.endswith("\nBoom")
