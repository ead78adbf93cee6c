"""Reads a worker's event stream with its journal, and makes the request that continues it elsewhere."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ryzanstein_worker.contract import CONTENT_TYPE_RESUME, HEADER_JOURNAL, MARK_COMMIT

ASK = {HEADER_JOURNAL: "1", "content-type": "application/json"}
ASK_RESUME = {HEADER_JOURNAL: "1", "content-type": CONTENT_TYPE_RESUME}


@dataclass(frozen=True)
class Commit:
    """The events of one delta and what its marker says."""

    events: tuple[bytes, ...]
    choice: int
    num_cached: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Journal:
    """A whole stream: who the answer is, its deltas, and the events behind the last marker."""

    id: str
    created: int
    seed: int
    commits: tuple[Commit, ...]
    tail: tuple[bytes, ...]

    def resume(self, upto: int, num_choices: int) -> dict[str, Any]:
        """The state after the first `upto` deltas."""
        choices: list[dict[str, Any]] = [{"token_ids": [], "num_cached": 0} for _ in range(num_choices)]
        for commit in self.commits[:upto]:
            choices[commit.choice]["token_ids"] += commit.token_ids
            choices[commit.choice]["num_cached"] = commit.num_cached
        return {"id": self.id, "created": self.created, "seed": self.seed, "choices": choices}


def read_journal(header: str, stream: bytes) -> Journal:
    """What a reply with this header and this body says. Fails where an event stands that no marker may follow."""
    answer_id, created, seed = header.split(" ")
    commits: list[Commit] = []
    events: list[bytes] = []
    for event in stream.split(b"\n\n"):
        if event.startswith(MARK_COMMIT):
            choice, num_cached, *token_ids = map(int, event.removeprefix(MARK_COMMIT).split())
            commits.append(Commit(tuple(events), choice, num_cached, tuple(token_ids)))
            events = []
        elif event:
            events.append(event)
    return Journal(answer_id, int(created), int(seed), tuple(commits), tuple(events))


def envelope(body: bytes, state: dict[str, Any]) -> bytes:
    """A resume request's body, the client's own in it byte for byte."""
    return b'{"request": ' + body + b', "resume": ' + json.dumps(state).encode() + b"}"


def by_choice(commits: Iterable[Commit]) -> dict[int, list[bytes]]:
    """Each choice's events in order; how the choices interleave is chance."""
    events: dict[int, list[bytes]] = {}
    for commit in commits:
        events.setdefault(commit.choice, []).extend(commit.events)
    return events
