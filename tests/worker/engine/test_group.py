"""Groups of several pods, as processes on loopback: they compute as one pod does, and live, end and restart as one."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal import ASK, read_journal
from processes import is_running, wait_until
from ryzanstein_worker.contract import EXIT_CONFIG, EXIT_GROUP_LOST, HEADER_JOURNAL, MARK_LOST_CRASH
from tiny_model import write_tiny_model
from worker_group import Pod, WorkerGroup, worker_group
from worker_process import MODEL_NAME, serve_worker

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

HANG_SECONDS = 5.0
FLAGS = ("--num-kv-blocks", "512", "--hang-timeout-seconds", str(HANG_SECONDS), "--drain-seconds", "100")
WITHIN_SECONDS = 30.0
"""For every pod of a lost group to have ended: a kill takes 2 s on an idle machine, a freeze the hang timeout more.
Shorter than a drain."""
LONG = {"model": MODEL_NAME, "prompt": "x", "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(
        tmp_path_factory.mktemp("model"),
        num_heads=6,
        num_kv_heads=6,
        hidden_size=48,
        intermediate_size=96,
        max_position_embeddings=8192,
    )


@pytest.fixture(scope="module")
def pair(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    """Two pods of one rank each. A test leaves them as they are; the next heals them."""
    with worker_group(model_dir, tmp_path_factory.mktemp("pair"), *FLAGS, ranks=2) as group:
        yield group


def _tokens(api: str, **fields: Any) -> dict[int, list[int]]:
    """The token ids of an answer, by choice."""
    body = {"model": MODEL_NAME, "ignore_eos": True, "stream": True, "max_tokens": 16} | fields
    response = httpx.post(f"{api}/v1/completions", json=body, headers=ASK, timeout=60)
    assert response.status_code == 200, response.text
    found: dict[int, list[int]] = {}
    for commit in read_journal(response.headers[HEADER_JOURNAL], response.content).commits:
        found.setdefault(commit.choice, []).extend(commit.token_ids)
    return found


def _answers(api: str) -> list[dict[int, list[int]]]:
    """Greedy and seeded ones, all asked for at once."""
    prompts = [[5, 9, 200, 31, 7, 7, 120, 44][n:] for n in range(4)]
    asked: list[dict[str, Any]] = [{"prompt": prompt, "temperature": 0} for prompt in prompts]
    asked += [{"prompt": prompt, "temperature": 0.8, "seed": n, "n": 2} for n, prompt in enumerate(prompts)]
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda fields: _tokens(api, **fields), asked))


class Stream:
    """A request with a journal, read by a thread until it ends: by itself only after many seconds, unless told."""

    def __init__(self, api: str, max_tokens: int = 8000) -> None:
        self.max_tokens = max_tokens
        self.content = b""
        self.header = ""
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=[api], daemon=True)
        self._thread.start()
        assert self._begun.wait(60), "no token came"

    def _read(self, api: str) -> None:
        body = LONG | {"max_tokens": self.max_tokens}
        with (
            contextlib.suppress(httpx.TransportError),  # a head that is killed takes the connection along
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{api}/v1/completions", json=body, headers=ASK) as response,
        ):
            self.header = response.headers[HEADER_JOURNAL]
            for piece in response.iter_bytes():
                self.content += piece
                self._begun.set()

    def tail(self) -> tuple[bytes, ...]:
        """What stands behind the last token."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream never ended"
        return read_journal(self.header, self.content).tail

    @property
    def num_tokens(self) -> int:
        return sum(len(commit.token_ids) for commit in read_journal(self.header, self.content).commits)


# --- One that works ------------------------------------------------------------------------------------


def test_pods_give_the_tokens_of_one_and_their_ranks_are_all_told(
    pair: WorkerGroup, model_dir: Path, tmp_path: Path
) -> None:
    with serve_worker(model_dir) as alone:
        expected = _answers(alone.api)
    pair.serving()
    assert _answers(pair.api) == expected
    with worker_group(model_dir, tmp_path, *FLAGS, nodes=3, ranks=3) as trio:
        trio.serving()
        assert _answers(trio.api) == expected
        status = trio.head.status()
        assert status["nnodes"] == 3
        assert [(rank["rank"], rank["node_rank"]) for rank in status["ranks"]] == [(0, 0), (1, 1), (2, 2)]
        assert max(rank["age_seconds"] for rank in status["ranks"]) < HANG_SECONDS
        last = trio.pods[2].status()
        assert (last["ready"], last["nnodes"], [rank["rank"] for rank in last["ranks"]]) == (True, 3, [2])
        # One pod of three is enough to end it, and each names the same culprit.
        os.kill(trio.pods[2].ranks()[0], signal.SIGKILL)
        assert trio.exits(WITHIN_SECONDS) == [EXIT_GROUP_LOST] * 3
        for pod in trio.pods.values():
            assert "rank 2 of node rank 2 was killed by SIGKILL" in pod.last_words()


def test_whoever_has_no_business_on_the_port_hurts_nobody(pair: WorkerGroup, tmp_path: Path) -> None:
    pair.serving()
    epoch = pair.head.status()["epoch"]
    stream = Stream(pair.api, max_tokens=400)
    idle = [socket.create_connection(("127.0.0.1", pair.port)) for _ in range(80)]  # more than may wait
    for number, sock in enumerate(idle):
        if number % 2:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        if number % 5 == 0:
            sock.close()
    wrong = tmp_path / "key"
    wrong.write_text("x" * 64)
    stranger = pair.start(1, key_file=wrong)
    misfit = pair.start(1, "--max-num-seqs", "7")
    outdated = pair.start(1, revision="r0")
    try:
        assert misfit.process.wait(60) == outdated.process.wait(60) == EXIT_CONFIG
        sentence = "Node rank 1 has --max-num-seqs 7, node rank 0 has 64: a group needs the same."
        assert (misfit.last_words(), misfit.termination_log.read_text()) == (sentence, sentence)
        assert outdated.last_words().startswith("Node rank 1 has the revision r0, node rank 0 has r1")
        stranger.wait_for_log("it holds another key than this pod's --group-key-file")
        pair.head.wait_for_log("a connection to the group's port was dropped: it does not hold the group's key")
        assert stream.tail() == (b"data: [DONE]",)
        assert stream.num_tokens == stream.max_tokens
        assert pair.head.status()["epoch"] == epoch
        assert all(pod.process.poll() is None for pod in pair.pods.values())
    finally:
        for pod in (stranger, misfit, outdated):
            pod.end()
        for sock in idle:
            sock.close()


# --- Losses --------------------------------------------------------------------------------------------


@contextmanager
def _lost(
    pair: WorkerGroup, *reasons: str, survivors: tuple[int, ...] = (0, 1), frozen: Pod | None = None
) -> Iterator[Stream]:
    """A stream runs; the block breaks something; every pod ends, and each survivor names the culprit last, by one of
    the `reasons`. A rank 0 whose parent is `frozen` may have nothing to do, and ends when that wakes."""
    pair.serving()
    ranks = [pid for pod in pair.pods.values() for pid in pod.ranks()]
    assert len(ranks) == 2
    stream = Stream(pair.api)
    yield stream
    began = time.monotonic()
    for node in survivors:
        pod = pair.pods[node]
        assert pod.process.wait(WITHIN_SECONDS) == EXIT_GROUP_LOST
        assert any(reason in pod.last_words() for reason in reasons)
        assert any(reason in pod.termination_log.read_text() for reason in reasons)
    assert time.monotonic() - began < WITHIN_SECONDS
    if frozen is not None:
        os.kill(frozen.pid, signal.SIGCONT)
    wait_until(lambda: not any(is_running(pid) for pid in ranks), WITHIN_SECONDS, "every rank ended")


def test_a_killed_rank_of_another_pod_ends_both_and_its_streams_can_go_on_elsewhere(pair: WorkerGroup) -> None:
    with _lost(pair, "rank 1 of node rank 1 was killed by SIGKILL") as stream:
        os.kill(pair.pods[1].ranks()[0], signal.SIGKILL)
    assert stream.tail() == (MARK_LOST_CRASH,)


def test_a_frozen_rank_of_another_pod_is_seen_by_its_age_and_then_named(pair: WorkerGroup) -> None:
    with _lost(pair, "rank 1 of node rank 1 gave no sign of life") as stream:
        os.kill(pair.pods[1].ranks()[0], signal.SIGSTOP)
        # The gateway goes by this age, long before the verdict.
        wait_until(lambda: pair.head.status()["beat_age"] > HANG_SECONDS / 2, HANG_SECONDS, "its heartbeat is old")
    assert "its process is stopped" in pair.head.last_words()
    assert stream.tail() == (MARK_LOST_CRASH,)


def test_a_pod_that_is_killed_ends_the_other_and_everyone_starts_once_more(pair: WorkerGroup) -> None:
    # The second where its successor knocks before the head has looked again.
    with _lost(pair, "node rank 1 has gone", "node rank 1 came anew", survivors=(0,)):
        old, starts = pair.head.status()["epoch"], dict(pair.starts)
        pair.pods[1].process.kill()
        pair.pods[1].process.wait(WITHIN_SECONDS)
        pair.heal()  # its kubelet is quick: it is back before the head knows
    pair.serving()
    assert pair.head.status()["epoch"] != old
    assert {node: pair.starts[node] - count for node, count in starts.items()} == {0: 1, 1: 1}
    assert len(_tokens(pair.api, prompt=[5, 6, 7], temperature=0)[0]) == 16


def test_a_pod_whose_parent_is_frozen_is_named_and_ends_when_it_wakes(pair: WorkerGroup) -> None:
    with _lost(pair, "node rank 1 gave no sign of life", survivors=(0,)):
        os.kill(pair.pods[1].pid, signal.SIGSTOP)
    os.kill(pair.pods[1].pid, signal.SIGCONT)
    assert pair.pods[1].process.wait(WITHIN_SECONDS) == EXIT_GROUP_LOST


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "node rank 0 has gone"), (signal.SIGSTOP, "node rank 0 gave no sign of life")],
)
def test_a_head_that_is_killed_or_frozen_is_named(pair: WorkerGroup, number: signal.Signals, reason: str) -> None:
    pair.serving()
    with _lost(pair, reason, survivors=(1,), frozen=pair.head if number == signal.SIGSTOP else None):
        os.kill(pair.head.pid, number)
    assert pair.head.process.wait(WITHIN_SECONDS) in (EXIT_GROUP_LOST, -signal.SIGKILL)


# --- Drains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [(0,), (1,), (1, 0)], ids=["head", "other", "both"])
def test_a_drain_ends_every_stream_and_then_the_group_whoever_is_told(
    pair: WorkerGroup, nodes: tuple[int, ...]
) -> None:
    pair.serving()
    stream = Stream(pair.api, max_tokens=40)
    for node in nodes:
        pair.pods[node].process.send_signal(signal.SIGTERM)
        if node == nodes[0]:
            pair.head.wait_for_log("draining")  # so that its own signal, where it gets one too, is not the first of all
    # Half of every token is the other pod's: it waited for the drain.
    assert stream.tail() == (b"data: [DONE]",)
    assert stream.num_tokens == stream.max_tokens
    assert pair.exits(30) == [0, 0]


def test_a_pod_that_waits_alone_ends_at_once_when_told(pair: WorkerGroup) -> None:
    for node in (0, 1):
        pod: Pod = pair.start(node)
        try:
            pod.wait_for_log("waiting for the other pods" if node == 0 else "cannot be joined yet")
            pod.process.send_signal(signal.SIGTERM)
            assert pod.process.wait(WITHIN_SECONDS) == 0
        finally:
            pod.end()
