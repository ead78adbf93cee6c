"""Choices: stop strings over any cut of the text, minimum lengths, merged streams."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzanstein_worker.engine.request import AddRequest, SamplingParams, TokenOutput
from ryzanstein_worker.engine.status import EngineBusyError, GroupLost, GroupLostError
from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.generate import Choice, Delta, StopMatcher, follow, merge
from ryzanstein_worker.server.tokenizer import Tokenizer
from ryzanstein_worker.telemetry.metrics import ServerMetrics

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, stopped = "", False
    for piece in pieces:
        new, stopped = matcher.push(piece)
        shown += new
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    text = "".join(pieces)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if stopped:
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert shown + matcher.flush() == text


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["STOP"])
    assert [matcher.push(piece) for piece in ("aS", "T", "x", "ST", "OP!")] == [
        ("a", False), ("", False), ("STx", False), ("", False), ("", True),
    ]  # fmt: skip


def _request(tokens: int = 8, **sampling: int | tuple[int, ...]) -> AddRequest:
    params = SamplingParams(max_tokens=tokens, **sampling)  # type: ignore[arg-type]  # each test names fitting ones
    return AddRequest(request_id="r", prompt_token_ids=[5, 6], sampling=params)


class Engine:
    """Plays outputs, or raises, where the engine would."""

    def __init__(self, *outputs: TokenOutput | Exception) -> None:
        self.outputs = outputs
        self.closed_early = False

    async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]:
        try:
            for output in self.outputs:
                if isinstance(output, Exception):
                    raise output
                yield output
        except GeneratorExit:
            self.closed_early = True
            raise


def _out(*ids: int, finish: str | None = None) -> TokenOutput:
    return TokenOutput(request_id="r", token_ids=list(ids), finish_reason=finish)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer(model_dir)


def test_the_end_token_counts_and_is_not_shown(tokenizer: Tokenizer) -> None:
    (word,) = tokenizer.encode("x", add_special_tokens=False)
    choice = Choice(0, _request(stop_token_ids=(2,)), tokenizer, [])
    delta = choice.push(_out(word, 2, finish="stop"))
    assert (delta.text, len(delta.token_ids), delta.finish_reason) == ("x", 2, "stop")


def test_held_back_text_is_shown_when_the_length_ends_it(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode("zq", add_special_tokens=False)
    choice = Choice(0, _request(), tokenizer, ["qq"])
    assert choice.push(_out(a)).text == "z"
    assert choice.push(_out(b)).text == ""
    assert choice.push(_out(finish="length")).text == "q"


def test_stop_strings_wait_for_min_tokens(tokenizer: Tokenizer) -> None:
    (word,) = tokenizer.encode("q", add_special_tokens=False)
    choice = Choice(0, _request(min_tokens=2), tokenizer, ["q"])
    deltas = [choice.push(_out(word)) for _ in range(3)]
    assert [delta.text for delta in deltas] == ["q", "q", ""]
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]


async def test_a_stop_string_ends_the_engines_request(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("zqx", add_special_tokens=False)
    engine = Engine(*map(_out, ids), _out(finish="length"))
    deltas = [delta async for delta in follow(engine, Choice(0, _request(), tokenizer, ["q"]), ServerMetrics("m"))]
    assert ("".join(delta.text for delta in deltas), deltas[-1].finish_reason) == ("z", "stop")
    assert sum(len(delta.token_ids) for delta in deltas) == 2
    assert engine.closed_early


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (_out(finish="error"), 500, "engine_error"),
        (_out(finish="abort"), 503, "engine_lost"),
        (GroupLostError(GroupLost(1, "rank 1 died with secrets")), 503, "engine_lost"),
        (GroupLostError(GroupLost(1, "rank 1 died with secrets"), started=False), 503, "draining"),
        (EngineBusyError("9"), 503, "overloaded"),
        (None, 503, "engine_lost"),
    ],
)
async def test_no_end_of_the_engine_looks_like_a_good_one(
    tokenizer: Tokenizer, end: TokenOutput | Exception | None, status: int, code: str
) -> None:
    engine = Engine(_out(50), *([end] if end is not None else []))
    with pytest.raises(ApiError) as caught:
        [delta async for delta in follow(engine, Choice(0, _request(), tokenizer, []), ServerMetrics("m"))]
    assert (caught.value.status, caught.value.body.error.code) == (status, code)
    assert "secret" not in str(caught.value)


async def _deltas(index: int, count: int, closed: list[int], fail: bool = False) -> AsyncGenerator[Delta, None]:
    try:
        for _ in range(count):
            await asyncio.sleep(0)
            yield Delta(index, "x", (), (7,), 0)
        if fail:
            raise ApiError(500, "no")
        await asyncio.Event().wait()
    finally:
        closed.append(index)


async def test_one_failing_choice_ends_the_others() -> None:
    closed: list[int] = []
    with pytest.raises(ApiError):
        [delta async for delta in merge([_deltas(0, 5, closed), _deltas(1, 2, closed, fail=True)])]
    assert sorted(closed) == [0, 1]


async def test_closing_the_merged_stream_closes_every_choice() -> None:
    closed: list[int] = []
    merged = merge([_deltas(index, 3, closed) for index in range(3)])
    await anext(merged)
    await merged.aclose()
    assert sorted(closed) == [0, 1, 2]
