"""Bad and hostile requests: each gets a 4xx of OpenAI's shape, and a good request beside them notices nothing."""

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from processes import started_at
from worker_process import MODEL_NAME, WorkerProcess

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


class Poison(NamedTuple):
    """A request and what must come of it: an error about `param`, or (None) any orderly answer."""

    name: str
    fields: dict[str, Any]
    param: str | None
    path: str = COMPLETIONS
    served: bool = False  # valid however odd: an answer is due


def _field(name: str, value: object, *, label: str | None = None) -> Poison:
    return Poison(label or f"{name}={value!r}"[:40], {name: value}, name)


def _fields(name: str, *values: object) -> list[Poison]:
    return [_field(name, value) for value in values]


CORPUS: list[Poison] = [
    *_fields("max_tokens", 0, -1, 2**31, 2**63, 2**200, 1.5, "5", True, [1]),
    *_fields("temperature", -0.1, 2.1, "hot", [], True),
    *_fields("top_p", 0, 1.1, -1, "1"),
    *_fields("top_k", -2, 2**40, 1.5),
    *_fields("min_p", -0.1, 1.01),
    *_fields("presence_penalty", 2.5, -1e308),
    *_fields("frequency_penalty", -2.01, 1e308),
    *_fields("seed", 2**64, -(2**64), 1.5),
    *_fields("n", 0, -1, 10**9, 65),
    *_fields("logprobs", -1, 10**6, True),
    *_fields("user", 5, "x" * 2000),
    *_fields("min_tokens", -1, 2**40),
    *_fields("stream", "yes", 1),
    _field("stop", ["x"] * 100_000, label="stop list of 100,000"),
    _field("stop", "", label="empty stop string"),
    _field("stop", ["a", ""], label="empty stop string in a list"),
    _field("stop", ["x" * 257], label="stop string too long"),
    _field("stop", 5),
    _field("prompt", ""),
    _field("prompt", []),
    _field("prompt", [[]]),
    _field("prompt", [-1]),
    _field("prompt", [2**40]),
    _field("prompt", [384]),
    _field("prompt", [1.5]),
    _field("prompt", ["a", 1]),
    _field("prompt", {"a": 1}),
    _field("prompt", ["a"] * 65, label="65 prompts"),
    Poison("64 prompts twice", {"prompt": ["a"] * 64, "n": 2}, "n"),
    Poison("min above max", {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    Poison("echo", {"echo": True}, "echo"),
    Poison("unknown field", {"logit_bias": {"99999999": 1}}, "logit_bias"),
    Poison("unknown long field", {"f" * 500: 1}, "f" * 64),
    Poison("best_of", {"best_of": 2}, "best_of"),
    Poison("options without a stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    Poison("unknown option", {"stream": True, "stream_options": {"x": 1}}, "x"),
    Poison("json mode", {"response_format": {"type": "json_object"}}, "response_format.type"),
    Poison("schema", {"response_format": {"type": "text", "json_schema": {"$ref": "#"}}}, "json_schema"),
    Poison("unknown model", {"model": "other"}, "model"),
    Poison("model from a path", {"model": "../../etc/passwd"}, "model"),
    Poison("no model", {"model": None}, "model"),
    Poison("no messages", {"messages": []}, "messages", CHAT),
    Poison("unknown role", {"messages": [{"role": "root", "content": "x"}]}, "messages.0.role", CHAT),
    Poison("image part", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content",
           CHAT),
    Poison("no content", {"messages": [{"role": "user"}]}, "messages.0.content", CHAT),
    Poison("tool calls", {"messages": [{**USER, "tool_calls": []}]}, "tool_calls", CHAT),
    Poison("a template of the client's", {"messages": [USER], "chat_template": "{{ 1 }}"}, "chat_template", CHAT),
    Poison("template arguments", {"messages": [USER], "chat_template_kwargs": {"tokenize": True}},
           "chat_template_kwargs", CHAT),
    Poison("tools", {"messages": [USER], "tools": []}, "tools", CHAT),
    Poison("top_logprobs alone", {"messages": [USER], "top_logprobs": 2}, "top_logprobs", CHAT),
    Poison("top_logprobs too many", {"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs", CHAT),
    Poison("whitespace", {"prompt": " \n\t "}, None, served=True),
    Poison("NUL", {"prompt": "a\0b"}, None, served=True),
    Poison("special tokens as text", {"prompt": "<|im_end|><|endoftext|>"}, None, served=True),
    Poison("special tokens in chat", {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}]},
           None, CHAT, served=True),
    Poison("denormal temperature", {"temperature": 1e-320}, None, served=True),
    Poison("negative zero", {"temperature": -0.0}, None, served=True),
    Poison("combining marks", {"prompt": "a" + "\u0301" * 150}, None, served=True),
    Poison("100,000 combining marks", {"prompt": "a" + "\u0301" * 100_000}, "prompt"),
    Poison("a megabyte without a token", {"prompt": "\u2063" * (1 << 20)}, "prompt"),
    Poison("all nulls", {"stop": None, "n": None, "seed": None, "user": None}, None, served=True),
    Poison("extremes", {"top_p": 1e-308, "top_k": 1, "min_p": 1, "presence_penalty": 2, "seed": -(2**63)}, None,
           served=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def http(worker: WorkerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.api, timeout=30) as client:
        yield client


def _body(poison: Poison) -> dict[str, Any]:
    base: dict[str, Any] = {"model": MODEL_NAME, "max_tokens": 2}
    base |= {"prompt": "hi"} if poison.path == COMPLETIONS else {"messages": [USER]}
    return base | poison.fields


@contextmanager
def _good_requests(http: httpx.Client) -> Iterator[list[bytes]]:
    """Sends one good request over and over for the length of the block; collects the texts."""
    texts: list[bytes] = []
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            texts.append(_good(http))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield texts
    finally:
        done.set()
        thread.join(timeout=30)


def _good(http: httpx.Client) -> bytes:
    body = {"model": MODEL_NAME, "prompt": "The quick brown fox", "max_tokens": 8, "temperature": 0.8, "seed": 5}
    answer = http.post(COMPLETIONS, json=body)
    assert answer.status_code == 200, answer.text
    return json.dumps(answer.json()["choices"]).encode()


def test_the_corpus_harms_only_itself(worker: WorkerProcess, http: httpx.Client) -> None:
    processes, alone = _processes(worker), _good(http)
    faults = []
    with _good_requests(http) as texts:
        for poison in CORPUS:
            answer = http.post(poison.path, json=_body(poison))
            fault = _fault(poison, answer)
            if fault:
                faults.append(f"{poison.name}: {fault}")
    assert not faults, "\n".join(faults)
    assert texts
    assert set(texts) == {alone}
    assert _processes(worker) == processes


def _processes(worker: WorkerProcess) -> list[tuple[int, int]]:
    """The worker's processes, each with the moment at which it began."""
    return [(pid, started_at(pid)) for pid in (worker.process.pid, *worker.ranks())]


def _fault(poison: Poison, answer: httpx.Response) -> str | None:
    """What is wrong with the answer; None if nothing."""
    if poison.served:
        return None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
    if answer.status_code not in (400, 404):
        return f"{answer.status_code} {answer.text[:200]}"
    error = answer.json()["error"]
    if set(error) != {"message", "type", "param", "code"} or error["type"] != "invalid_request_error":
        return f"not OpenAI's shape: {error}"
    expected = ("messages", "prompt") if error["code"] == "context_length_exceeded" else (poison.param,)
    return None if error["param"] in expected and len(error["message"]) < 300 else f"{error}"


RAW = {
    "no JSON": b"{",
    "no object": b"[]",
    "empty": b"",
    "NaN": b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
    "infinity": b'{"model": "tiny", "prompt": "x", "temperature": -Infinity}',
    "too large a number": b'{"model": "tiny", "prompt": "x", "temperature": 1e999}',
    "endless digits": b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 100_000 + b"}",
    "a key twice": b'{"model": "tiny", "prompt": "x", "prompt": "y"}',
    "a key twice inside": b'{"model": "tiny", "prompt": "x", "stream_options": {"a": 1, "a": 2}}',
    "deep lists": b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "tiny", "prompt": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "lone surrogate": b'{"model": "tiny", "prompt": "a\\ud800b"}',
    "lone surrogate as a key": b'{"model": "tiny", "prompt": "x", "\\udfff": 1}',
    "overlong UTF-8": b'{"model": "tiny", "prompt": "\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
    "UTF-16": '{"model": "tiny", "prompt": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", RAW)
def test_bodies_that_are_not_plain_json_are_refused(http: httpx.Client, name: str) -> None:
    answer = http.post(COMPLETIONS, content=RAW[name], headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "Traceback" not in answer.text


def test_a_lone_surrogate_in_a_chat_is_refused_in_streams_too(http: httpx.Client) -> None:
    body = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"\\ud83d"}]}'
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("headers", "content", "status"), [
    ({"content-type": "text/plain"}, b"{}", 415),
    ({"content-type": "application/json", "content-encoding": "gzip"}, gzip.compress(b" " * 1_000_000, mtime=0), 415),
    ({"content-type": "application/json", "content-length": str(64 << 20)}, b"", 413),
    ({"content-type": "application/json", "x-ryzanstein-cache-salt": "zz"}, b"{}", 400),
    ({"content-type": "application/json", "x-ryzanstein-cache-salt": "a" * 66}, b"{}", 400),
])  # fmt: skip
def test_heads_that_announce_trouble_are_refused(
    worker: WorkerProcess, headers: dict[str, str], content: bytes, status: int
) -> None:
    lines = {"host": "x", "content-length": str(len(content))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    answer = _raw(worker, f"POST {COMPLETIONS} HTTP/1.1\r\n{head}\r\n".encode() + content)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]


def test_a_body_without_an_announced_end_is_cut_off(worker: WorkerProcess) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    answer = _raw(worker, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 20)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_six_byte_chunks_are_read_like_any_body(worker: WorkerProcess) -> None:
    body = json.dumps({"model": MODEL_NAME, "prompt": "x", "max_tokens": 1}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    assert _raw(worker, head + b"transfer-encoding: chunked\r\n\r\n" + chunks).startswith(b"HTTP/1.1 200 ")


def test_a_head_without_end_is_cut_off(worker: WorkerProcess) -> None:
    assert _raw(worker, b"GET / HTTP/1.1\r\nx: " + b"a" * (1 << 20)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405), ("GET", "/docs", 404),
    ("POST", "/invocations", 404), ("GET", "/v1/models/../../etc/passwd", 404),
])  # fmt: skip
def test_other_paths_answer_in_the_same_shape(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("num_prompt", "max_tokens", "status"), [
    (511, None, 200), (511, 1, 200), (511, 2, 400), (512, None, 400), (513, 1, 400), (500, 13, 400),
])  # fmt: skip
def test_the_context_length_is_a_sharp_edge(
    http: httpx.Client, num_prompt: int, max_tokens: int | None, status: int
) -> None:
    body = {"model": MODEL_NAME, "prompt": [7] * num_prompt, "max_tokens": max_tokens}
    answer = http.post(COMPLETIONS, json=body)
    assert answer.status_code == status, answer.text
    if status == 400:
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith("This model's maximum context length is 512 tokens. However, ")


def _raw(worker: WorkerProcess, request: bytes) -> bytes:
    """What comes back on a bare connection until it closes, or is still for a moment."""
    address = urlsplit(worker.api)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as connection:
        sender = threading.Thread(target=_send, args=(connection, request))
        sender.start()
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            answer = b""
        with contextlib.suppress(OSError):  # the worker has hung up first
            connection.shutdown(socket.SHUT_RDWR)
        sender.join(timeout=10)
        return answer


def _send(connection: socket.socket, request: bytes) -> None:
    try:
        connection.sendall(request)
    except OSError:
        return
