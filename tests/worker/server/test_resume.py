"""A stream that another replica goes on with: at every cut, what came before and what comes after are the whole."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from journal import ASK, ASK_RESUME, Commit, Journal, by_choice, envelope, read_journal
from ryzanstein_worker.contract import HEADER_JOURNAL
from worker_process import MODEL_NAME, WorkerProcess

# Some make fifty requests: seconds alone, a minute where others want the cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": "A journey of a thousand"}]


@pytest.fixture(scope="module")
def http(worker: WorkerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.api, timeout=30) as client:
        yield client


def _body(path: str, fields: dict[str, Any]) -> bytes:
    prompt = {"prompt": "The quick brown fox jumps over the lazy dog."} if path == COMPLETIONS else {"messages": TURNS}
    base = {"model": MODEL_NAME, "max_tokens": 9, "temperature": 0, "stream": True, **prompt}
    return json.dumps(base | fields).encode()


def _read(answer: httpx.Response) -> Journal:
    assert answer.status_code == 200, answer.text
    return read_journal(answer.headers[HEADER_JOURNAL], answer.content)


def _whole(http: httpx.Client, path: str, body: bytes) -> Journal:
    """The undisturbed stream, its prompt in the prefix cache: so usage does not depend on what ran before."""
    for _ in range(2):
        journal = _read(http.post(path, content=body, headers=ASK))
    return journal


def _same(one: bytes, other: bytes) -> bool:
    """Byte for byte but for log probabilities: a prefill and a decode add the same numbers up in different orders."""
    if b'"logprob' not in one:
        return one == other
    return bool(json.loads(one.removeprefix(b"data: ")) == _close(json.loads(other.removeprefix(b"data: "))))


def _close(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, list):
        return [_close(item) for item in value]
    return {key: _close(item) for key, item in value.items()} if isinstance(value, dict) else value


def _assert_same(whole: Journal, cut: int, rest: Journal) -> None:
    assert (rest.id, rest.created, rest.seed) == (whole.id, whole.created, whole.seed)
    assert rest.tail == whole.tail
    spliced = by_choice([*whole.commits[:cut], *rest.commits])
    expected = by_choice(whole.commits)
    assert spliced.keys() == expected.keys()
    for choice, events in expected.items():
        assert len(spliced[choice]) == len(events)
        assert all(map(_same, events, spliced[choice])), (cut, events, spliced[choice])
    assert _tokens(rest.commits) == _tokens(whole.commits[cut:])


def _tokens(commits: tuple[Commit, ...]) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    for commit in commits:
        tokens.setdefault(commit.choice, []).extend(commit.token_ids)
    return tokens


USAGE = {"stream_options": {"include_usage": True}}
SAMPLED = {"temperature": 1.2, "seed": -7, "max_tokens": 12}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "greedy": (COMPLETIONS, USAGE, 1),
    "seeded": (COMPLETIONS, SAMPLED | USAGE, 1),
    "seed drawn by the worker": (COMPLETIONS, {"temperature": 1.0, "top_p": 0.9, "min_p": 0.01}, 1),
    "chat": (CHAT, USAGE, 1),
    "chat seeded": (CHAT, SAMPLED | {"top_k": 40}, 1),
    "penalties": (COMPLETIONS, SAMPLED | {"presence_penalty": 1.5, "frequency_penalty": 1.0}, 1),
    "min_tokens": (COMPLETIONS, SAMPLED | {"min_tokens": 6, "stop": ["e", "n", "s"]}, 1),
    "logprobs": (COMPLETIONS, {"logprobs": 3, **SAMPLED}, 1),
    "chat logprobs": (CHAT, {"logprobs": True, "top_logprobs": 2, **USAGE}, 1),
    "n": (COMPLETIONS, SAMPLED | {"n": 2} | USAGE, 2),
    "chat n": (CHAT, SAMPLED | {"n": 3, "max_tokens": 5} | USAGE, 3),
    "prompts": (COMPLETIONS, {"prompt": ["The lazy dog", "grüße, 你好"], "n": 2, **SAMPLED, **USAGE}, 4),
    "token ids": (COMPLETIONS, {"prompt": [[5, 6, 7] * 9, [9] * 20], **USAGE}, 2),
    "many bytes a character": (COMPLETIONS, {"prompt": "🙂", "temperature": 2, "seed": 3, "max_tokens": 24}, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cut_anywhere_leaves_no_trace(http: httpx.Client, name: str) -> None:
    path, fields, num_choices = CASES[name]
    body = _body(path, fields)
    whole = _whole(http, path, body)
    assert len(whole.commits) >= 5
    for cut in range(len(whole.commits) + 1):
        state = whole.resume(cut, num_choices)
        rest = _read(http.post(path, content=envelope(body, state), headers=ASK_RESUME))
        _assert_same(whole, cut, rest)


def _shown(journal: Journal) -> list[str]:
    """The text of each delta of a completion."""
    return [
        "".join(json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in commit.events)
        for commit in journal.commits
    ]


def test_a_stop_string_across_the_cut_is_found(http: httpx.Client) -> None:
    free = _shown(_whole(http, COMPLETIONS, _body(COMPLETIONS, {"max_tokens": 9})))
    text = "".join(free)
    stops = [
        "".join(free[3:6]),  # across three deltas: found at the sixth
        "".join(free[5:8]) + "nowhere",  # held back to the end, and then shown
    ]
    for stop in stops:
        body = _body(COMPLETIONS, {"max_tokens": 9, "stop": stop, **USAGE})
        whole = _whole(http, COMPLETIONS, body)
        assert "".join(_shown(whole)) == text.partition(stop)[0]
        assert any(not commit.events for commit in whole.commits), "nothing was held back"
        for cut in range(len(whole.commits) + 1):
            state = whole.resume(cut, 1)
            _assert_same(whole, cut, _read(http.post(COMPLETIONS, content=envelope(body, state), headers=ASK_RESUME)))


def test_a_continuation_can_be_continued(http: httpx.Client) -> None:
    body = _body(CHAT, SAMPLED | USAGE)
    whole = _whole(http, CHAT, body)
    commits = list(whole.commits[:1])
    while len(commits) < len(whole.commits):
        so_far = Journal(whole.id, whole.created, whole.seed, tuple(commits), ())
        state = so_far.resume(len(commits), 1)
        rest = _read(http.post(CHAT, content=envelope(body, state), headers=ASK_RESUME))
        commits.append(rest.commits[0])
        _assert_same(whole, len(commits) - 1, rest)
    assert by_choice(commits) == by_choice(whole.commits)


@pytest.mark.parametrize(("path", "fields"), [(COMPLETIONS, {}), (CHAT, {}), (CHAT, USAGE | {"n": 2})])
def test_without_the_header_the_stream_has_the_events_alone(
    http: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    body = _body(path, fields)
    journal = _whole(http, path, body)
    plain = http.post(path, content=body, headers={"content-type": "application/json"})
    assert HEADER_JOURNAL not in plain.headers
    events = [event for event in plain.content.split(b"\n\n") if event]
    expected = [event for commit in journal.commits for event in commit.events] + [*journal.tail]

    def masked(raw: list[bytes]) -> list[str]:
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in raw if event != b"data: [DONE]"]
        return sorted(json.dumps(chunk | {"id": "", "created": 0}) for chunk in chunks)

    assert masked(events) == masked(expected)
    assert events[-1] == expected[-1] == b"data: [DONE]"


def test_an_answer_in_one_piece_has_no_journal(http: httpx.Client) -> None:
    answer = http.post(COMPLETIONS, content=_body(COMPLETIONS, {"stream": False}), headers=ASK)
    assert answer.status_code == 200
    assert HEADER_JOURNAL not in answer.headers
    assert b":c " not in answer.content


def _choice(token_ids: Any, num_cached: Any = 0, **more: Any) -> dict[str, Any]:
    return {"token_ids": token_ids, "num_cached": num_cached, **more}


MALFORMED: dict[str, dict[str, Any]] = {
    "too few choices": {"choices": []},
    "too many choices": {"choices": [_choice([5])] * 2},
    "a token outside the vocabulary": {"choices": [_choice([384])]},
    "a negative token": {"choices": [_choice([-1])]},
    "a token that is no number": {"choices": [_choice(["5"])]},
    "more tokens than were asked for": {"choices": [_choice([5] * 10)]},
    "tokens after the end of the text": {"choices": [_choice([5, 2, 5])]},
    "more cached tokens than the prompt has": {"choices": [_choice([5], 400)]},
    "negative cached tokens": {"choices": [_choice([5], -1)]},
    "an unknown field": {"more": 1},
    "an unknown field of a choice": {"choices": [_choice([5], more=1)]},
    "an id of another kind": {"id": "chatcmpl-" + "a" * 32},
    "an id with a line break": {"id": "cmpl-" + "a" * 32 + "\n"},
    "an id that is none": {"id": "cmpl-" + "a" * 31 + "\r"},
    "a seed beyond 63 bits": {"seed": 1 << 63},
    "another seed than the client's": {"seed": 6},
    "no moment": {"created": None},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_state_that_cannot_be_is_refused(http: httpx.Client, name: str) -> None:
    body = _body(COMPLETIONS, {"seed": 5})
    state = {"id": "cmpl-" + "a" * 32, "created": 1, "seed": 5, "choices": [_choice([5])]}
    good = http.post(COMPLETIONS, content=envelope(body, state), headers=ASK_RESUME)
    assert good.status_code == 200, good.text
    answer = http.post(COMPLETIONS, content=envelope(body, state | MALFORMED[name]), headers=ASK_RESUME)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "resume"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"request": {}}', b'{"resume": {}}', b"\xff", b'{"request": {}, "resume": {}, "more": 1}'],
)
def test_an_envelope_that_is_none_is_refused(http: httpx.Client, content: bytes) -> None:
    answer = http.post(COMPLETIONS, content=content, headers=ASK_RESUME)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "resume")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (_body(COMPLETIONS, {"stream": False}), "resume"),
        (_body(COMPLETIONS, {"max_tokens": 0}), "max_tokens"),
        (b'{"model": "tiny", "prompt": "a", "prompt": "b"}', None),
    ],
)
def test_the_request_inside_is_checked_as_ever(http: httpx.Client, body: bytes, param: str | None) -> None:
    state = {"id": "cmpl-" + "a" * 32, "created": 1, "seed": 5, "choices": [_choice([5])]}
    answer = http.post(COMPLETIONS, content=envelope(body, state), headers=ASK_RESUME)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
