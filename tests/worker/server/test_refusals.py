"""Bad and hostile requests: each gets a 4xx of OpenAI's shape, and a good request beside them notices nothing."""

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from poison import CORPUS, RAW, Poison
from processes import started_at
from worker_process import MODEL_NAME, WorkerProcess

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(worker: WorkerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.api, timeout=30) as client:
        yield client


@contextmanager
def _good_requests(http: httpx.Client) -> Iterator[list[bytes]]:
    """Sends one good request over and over for the length of the block; collects the texts."""
    texts: list[bytes] = []
    done = threading.Event()

    def loop() -> None:
        texts.append(_good(http))  # one at least, however late this thread begins
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
            answer = http.post(poison.path, json=poison.body)
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
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=30) as connection:
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
